// SPDX-License-Identifier: Apache-2.0

package remedy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
)

// ConfigureInterface is Configure for an interface: with a key of its own, or to be
// managed where no entry names it. A configuration that names interfaces manages
// these and no others, so that the first entry has to bring those along that were
// found without one.
func ConfigureInterface(h *snapshot.Host, name, key string) string {
	if h.Config.Interfaces == nil {
		return Configure(&h.State, "set interfaces: ["+strings.Join(entriesWith(h, name, key), ", ")+"]")
	}
	there := EntryOf(h, name)
	switch flags := h.Config.Flags; {
	case there == nil && len(flags.Interfaces) > 0:
		flags.Interfaces = append(slices.Clone(flags.Interfaces), name)
		return startWith(&h.State, flags)
	case there == nil:
		return Configure(&h.State, fmt.Sprintf("add %s under interfaces", entry(name, key)))
	case config.IsGlob(there.Name):
		// An entry of its own goes before the glob, and has to say what that does.
		return Configure(&h.State, fmt.Sprintf("add %s under interfaces", entry(name, append([]string{key}, keys(there)...)...)))
	}
	return Configure(&h.State, fmt.Sprintf("set %s for name: %s under interfaces", key, yamlWord(there.Name)))
}

// UnconfigureGateway takes a gateway out of the configuration of an interface.
func UnconfigureGateway(h *snapshot.Host, i discover.Interface, gateway netip.Addr) string {
	isIt := func(g netip.Addr) bool { return g == gateway }
	rest := slices.DeleteFunc(slices.Clone(i.Settings.Gateways), isIt)
	if len(rest) == 0 {
		return Configure(&h.State, fmt.Sprintf("remove gateways: [%s] of %s", gateway, i.Name))
	}
	return Configure(&h.State, fmt.Sprintf("set gateways: %s of %s", yamlList(rest), i.Name))
}

// Rename is what has another interface be managed in the place of one that is not there.
func Rename(s *snapshot.State, from, to string) string {
	if !slices.Contains(s.Config.Flags.Interfaces, from) {
		return Configure(s, fmt.Sprintf("write %s in the place of %s under interfaces", yamlWord(to), yamlWord(from)))
	}
	flags := s.Config.Flags
	flags.Interfaces = slices.Clone(flags.Interfaces)
	for n, name := range flags.Interfaces {
		if name == from {
			flags.Interfaces[n] = to
		}
	}
	return startWith(s, flags)
}

// Enforce is the command that ends observing, with what it takes to have it last.
func Enforce(h *snapshot.Host, name string) string {
	command := Command(&h.State, "replypath mode enforce")
	entry := EntryOf(h, name)
	switch {
	case h.Config.Flags.Observe:
		return finding.Explained(command, "until the next start: leave --observe out then")
	case entry != nil && entry.Mode == config.ModeObserve:
		return finding.Explained(command, "until the next start; for good: mode: enforce for name: "+yamlWord(entry.Name)+" in "+h.ConfigPath)
	case h.Config.Mode == config.ModeObserve && (entry == nil || entry.Mode == ""):
		return finding.Explained(command, "until the next start; for good: mode: enforce in "+h.ConfigPath)
	}
	return command // somebody has switched, against the configuration
}

// entriesWith are the entries of all managed interfaces, one of them with a key,
// which is the last one where it is not managed yet.
func entriesWith(h *snapshot.Host, name, key string) []string {
	var entries []string
	for _, i := range h.Interfaces {
		if i.Name == name {
			entries = append(entries, entry(name, key))
		} else {
			entries = append(entries, entry(i.Name))
		}
	}
	if h.Named(name) == nil {
		entries = append(entries, entry(name, key))
	}
	return entries
}

// EntryOf returns the entry of the configuration that holds for an interface; nil for none.
func EntryOf(h *snapshot.Host, name string) *config.Interface {
	var alternatives []string
	if i := h.Named(name); i != nil {
		alternatives = i.AltNames
	}
	return discover.Entry(h.Config.Interfaces, name, alternatives)
}

// keys are what an entry says beside the name and the next hop, as YAML.
func keys(e *config.Interface) []string {
	var list []string
	if e.Mode != "" {
		list = append(list, "mode: "+string(e.Mode))
	}
	if len(e.Gateways) > 0 {
		list = append(list, "gateways: "+yamlList(e.Gateways))
	}
	return list
}

// entry writes an entry of interfaces as YAML; empty keys are left out.
func entry(name string, keys ...string) string {
	text := "name: " + yamlWord(name)
	for _, key := range keys {
		if key != "" {
			text += ", " + key
		}
	}
	return "{" + text + "}"
}

// yamlList writes addresses, none of which needs quotes.
func yamlList(list []netip.Addr) string {
	return strings.ReplaceAll(fmt.Sprint(list), " ", ", ")
}

// plainYAML is what YAML takes for text, but for the words that it has for others.
var plainYAML = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)

func yamlWord(word string) string {
	others := []string{"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
	if plainYAML.MatchString(word) && !slices.Contains(others, strings.ToLower(word)) {
		return word
	}
	return strconv.Quote(word)
}

// leftOut are the beginnings of the reasons that the configuration overrules, those
// first that are most likely meant (loader/discover/choose.go).
var leftOut = []string{"not named by the configuration", "no global address", "ignore_interfaces", "bridge with no port"}

// ManageOne is what has one of the interfaces be managed that discovery left out. A
// configuration that names an interface overrules it.
func ManageOne(h *snapshot.Host) finding.Remedy {
	for _, reason := range leftOut {
		for _, u := range h.Unmanaged {
			if strings.HasPrefix(u.Reason, reason) {
				return finding.Remedy{Fix: ConfigureInterface(h, u.Name, "")}
			}
		}
	}
	return finding.Remedy{Inspect: finding.Explained("ip -brief address show", "no interface here can be managed: give the host one with a global address")}
}
