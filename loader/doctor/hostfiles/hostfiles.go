// SPDX-License-Identifier: Apache-2.0

// Package hostfiles reads the files that a host's network is set up by.
package hostfiles

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/snapshot"
)

// ruleFiles are where rules are written for the next start of the network, how they
// are read, and who reads them. A file that a pattern matches is read once, by the
// first.
var ruleFiles = []struct {
	pattern string
	parse   func(file, text string) []snapshot.RuleLine
	owner   string
}{
	{"/etc/network/interfaces", parseScript, "ifupdown"},
	{"/etc/network/interfaces.d/*", parseScript, "ifupdown"},
	{"/etc/network/if-*.d/*", parseScript, "ifupdown"},
	{"/etc/rc.local", parseScript, "rc.local"},
	{"/etc/NetworkManager/dispatcher.d/*", parseScript, owners.NetworkManager},
	{"/etc/networkd-dispatcher/*/*", parseScript, "networkd-dispatcher"},
	{"/etc/NetworkManager/system-connections/*", parseKeyfile, owners.NetworkManager},
	{"/etc/systemd/network/*.network", parseNetworkd, owners.Networkd},
	{"/etc/systemd/network/*.network.d/*.conf", parseNetworkd, owners.Networkd},
	{"/usr/lib/systemd/network/*.network", parseNetworkd, owners.Networkd},
	{"/etc/netplan/*.yaml", parseNetplan, "netplan"},
	{"/etc/sysconfig/network-scripts/rule-*", parseRuleFile, "network-scripts"},
	{"/etc/sysconfig/network-scripts/rule6-*", parseRuleFile, "network-scripts"},
	{"/etc/sysconfig/network/ifrule-*", parseRuleFile, "wicked"},
}

// RuleLines reads the rules that the host is going to be set up with, of the files below a root, empty for "/".
func RuleLines(root string) ([]snapshot.RuleLine, error) {
	var found []snapshot.RuleLine
	for _, f := range ruleFiles {
		names, err := filepath.Glob(filepath.Join("/", root, f.pattern))
		if err != nil {
			return found, err
		}
		for _, name := range names {
			if isOverridden(root, name) {
				continue
			}
			text, err := readText(name)
			if err != nil {
				return found, err
			}
			for _, line := range f.parse(shown(root, name), text) {
				line.Owner = f.owner
				found = append(found, line)
			}
		}
	}
	return found, nil
}

// isOverridden tells a file of a package that is not read, as there is one in its
// place (systemd.network(5)), which may be a link to /dev/null.
func isOverridden(root, name string) bool {
	below, ofPackage := strings.CutPrefix(shown(root, name), "/usr/lib/")
	_, err := os.Lstat(filepath.Join("/", root, "etc", below))
	return ofPackage && err == nil
}

// shown is the path of a file as the host knows it.
func shown(root, name string) string {
	return "/" + strings.TrimPrefix(strings.TrimPrefix(name, filepath.Join("/", root)), "/")
}

// mostText bounds what is read of a file.
const mostText = 1 << 20

// readText returns nothing for directories, devices and what is larger than any
// such file, and for what has gone meanwhile.
func readText(name string) (string, error) {
	var text []byte
	info, err := os.Stat(name)
	if err == nil && info.Mode().IsRegular() && info.Size() <= mostText {
		text, err = os.ReadFile(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

const (
	// firewalldFile is where firewalld keeps its settings.
	firewalldFile = "/etc/firewalld/firewalld.conf"
	// firewalldEnabled is there where systemd starts it at boot.
	firewalldEnabled = "/etc/systemd/system/multi-user.target.wants/firewalld.service"
)

// Firewalld reads what firewalld is set to.
func Firewalld(root string) (*snapshot.Firewalld, error) {
	name := filepath.Join("/", root, firewalldFile)
	if _, err := os.Stat(name); err != nil {
		return nil, nil // not installed
	}
	text, err := readText(name)
	if err != nil {
		return nil, err
	}
	_, notEnabled := os.Lstat(filepath.Join("/", root, firewalldEnabled))
	f := &snapshot.Firewalld{File: firewalldFile, IPv6RPFilter: "yes", Enabled: notEnabled == nil}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "IPv6_rpfilter="); ok {
			f.IPv6RPFilter = strings.TrimSpace(value)
		}
	}
	return f, nil
}
