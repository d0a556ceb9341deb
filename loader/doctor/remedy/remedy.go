// SPDX-License-Identifier: Apache-2.0

// Package remedy writes the commands of replypath, and the changes of its configuration, that mend a finding.
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
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/pins"
)

// Configure is what mends a finding by a change of the configuration.
func Configure(s *snapshot.State, change string) string {
	return fmt.Sprintf("%s in %s, then %s", change, finding.Quote(s.ConfigPath), Reload(s))
}

// Reload is the command that puts a changed configuration in force. The unit's
// reloads no daemon but its own, which uses the usual pin directory.
func Reload(s *snapshot.State) string {
	d := s.Daemon
	switch {
	case d != nil && d.PID != 0 && (!d.Unit || !s.IsByUnit()):
		return fmt.Sprintf("kill -HUP %d", d.PID)
	case s.IsByUnit():
		return "systemctl reload replypath"
	}
	return StartAgain(s)
}

// Start is the command that starts replypath, or starts it anew: by its unit, which
// uses the usual pin directory.
func Start(s *snapshot.State) string {
	if s.IsByUnit() && s.Attached {
		return "systemctl restart replypath"
	}
	return StartAgain(s)
}

// StartAgain is the command that starts replypath where no daemon runs.
func StartAgain(s *snapshot.State) string {
	if s.IsByUnit() {
		return "systemctl start replypath"
	}
	return runWith(s, s.Config.Flags)
}

// Try is the command that enforces, and takes everything back unless it is confirmed.
func Try(s *snapshot.State) string { return Command(s, "replypath try") }

// Begins tells of a fix that starts replypath, or has its unit do something, which is refused where another one runs.
func Begins(fix *string) bool {
	return fix != nil && slices.ContainsFunc([]string{"replypath run", "replypath try", "systemctl "}, func(words string) bool {
		return strings.Contains(*fix, words)
	})
}

// AskElsewhere is the command that examines the datapath that this network namespace has.
func AskElsewhere(e *snapshot.Elsewhere) string {
	if e.Dir == "" {
		return finding.Explained("replypath doctor", "where the daemon runs, as on the host or in its container")
	}
	return "replypath doctor --pin-dir " + finding.Quote(e.Dir)
}

// Command is one of replypath's for the pin directory.
func Command(s *snapshot.State, words string) string {
	if !s.IsUsual() {
		words += " --pin-dir " + finding.Quote(pins.Shown(s.PinDir))
	}
	return words
}

// AsRoot is doctor once more, with more rights.
func AsRoot(s *snapshot.State) string {
	return finding.Explained(Command(s, "replypath doctor"), "as root")
}

// startWith starts replypath with other flags than it was started with.
func startWith(s *snapshot.State, flags config.Overrides) string {
	if s.Daemon == nil {
		return runWith(s, flags)
	}
	return finding.Explained(runWith(s, flags), "in the place of the daemon that runs now")
}

// runWith is the command that starts replypath with flags.
func runWith(s *snapshot.State, flags config.Overrides) string {
	command := Command(s, "replypath run")
	if s.ConfigPath != "" && s.ConfigPath != config.DefaultPath {
		command += " --config " + finding.Quote(s.ConfigPath)
	}
	return command + Flags(flags)
}

// Flags are those of a command line, each after a blank.
func Flags(flags config.Overrides) (text string) {
	for _, word := range flags.Words() {
		text += " " + finding.Quote(word)
	}
	return text
}

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
