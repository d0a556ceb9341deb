// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"os"
	"path/filepath"
	"strings"
)

// SetSysctl writes a sysctl of the host. The key has slashes, as under /proc/sys, because interface names may have
// dots: "net/ipv4/ip_forward".
func (h *Host) SetSysctl(key, value string) error {
	err := h.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0)
	})
	return h.named(err, "set sysctl %s to %s", key, value)
}

// Sysctl reads a sysctl of the host; the key as for SetSysctl.
func (h *Host) Sysctl(key string) (string, error) {
	data, err := valueIn(h, func() ([]byte, error) { return os.ReadFile(filepath.Join("/proc/sys", key)) })
	return strings.TrimSpace(string(data)), h.named(err, "read sysctl %s", key)
}

// setting is a sysctl and its value.
type setting struct{ key, value string }

func (h *Host) setSysctls(settings []setting) error {
	for _, s := range settings {
		if err := h.SetSysctl(s.key, s.value); err != nil {
			return err
		}
	}
	return nil
}

// kernelIPv4Defaults are put back in each new namespace, which inherits the machine's IPv4 settings
// (net.core.devconf_inherit_init_net): distributions ship other values, of rp_filter above all.
var kernelIPv4Defaults = []setting{
	{"accept_local", "0"},
	{"accept_redirects", "1"},
	{"arp_announce", "0"},
	{"arp_filter", "0"},
	{"arp_ignore", "0"},
	{"ignore_routes_with_linkdown", "0"},
	{"log_martians", "0"},
	{"rp_filter", "0"},
	{"secure_redirects", "1"},
	{"send_redirects", "1"},
	{"src_valid_mark", "0"},
}

// setDefaults makes a new namespace independent of the machine's settings.
func (h *Host) setDefaults(options Options) error {
	// First, as a write that changes it resets others.
	settings := []setting{{"net/ipv4/ip_forward", "0"}}
	for _, device := range []string{"all", "default", "lo"} {
		for _, s := range kernelIPv4Defaults {
			settings = append(settings, setting{"net/ipv4/conf/" + device + "/" + s.key, s.value})
		}
	}
	if err := h.setSysctls(settings); err != nil {
		return err
	}
	return h.setIPv6Defaults(options.NoIPv6)
}

func (h *Host) setIPv6Defaults(disable bool) error {
	if disable {
		if _, err := os.Stat("/proc/sys/net/ipv6"); os.IsNotExist(err) {
			return nil
		}
	}
	values := []setting{{"accept_dad", "0"}, {"dad_transmits", "0"}}
	if disable {
		values = []setting{{"disable_ipv6", "1"}}
	}
	var settings []setting
	for _, device := range []string{"all", "default"} {
		for _, s := range values {
			settings = append(settings, setting{"net/ipv6/conf/" + device + "/" + s.key, s.value})
		}
	}
	return h.setSysctls(settings)
}
