// Package remedy writes the commands of replypath, and the changes of its configuration, that mend a finding.
package doctor

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/config"
)

// configure is what mends a finding by a change of the configuration.
func configure(s *State, change string) string {
	return fmt.Sprintf("%s in %s, then %s", change, quote(s.ConfigPath), reload(s))
}

// reload is the command that puts a changed configuration in force. The unit's
// reloads no daemon but its own, which uses the usual pin directory.
func reload(s *State) string {
	d := s.Daemon
	switch {
	case d != nil && d.PID != 0 && (!d.Unit || !s.isByUnit()):
		return fmt.Sprintf("kill -HUP %d", d.PID)
	case s.isByUnit():
		return "systemctl reload replypath"
	}
	return startAgain(s)
}

// start is the command that starts replypath, or starts it anew: by its unit, which
// uses the usual pin directory.
func start(s *State) string {
	if s.isByUnit() && s.Attached {
		return "systemctl restart replypath"
	}
	return startAgain(s)
}

// startAgain is the command that starts replypath where no daemon runs.
func startAgain(s *State) string {
	if s.isByUnit() {
		return "systemctl start replypath"
	}
	return runWith(s, s.Config.Flags)
}

// command is one of replypath's for the pin directory.
func command(s *State, words string) string {
	if !s.isByUnit() {
		words += " --pin-dir " + quote(s.PinDir)
	}
	return words
}

// asRoot is doctor once more, with more rights.
func asRoot(s *State) string { return explained(command(s, "replypath doctor"), "as root") }

// startWith starts replypath with other flags than it was started with.
func startWith(s *State, flags config.Overrides) string {
	if s.Daemon == nil {
		return runWith(s, flags)
	}
	return explained(runWith(s, flags), "in the place of the daemon that runs now")
}

// runWith is the command that starts replypath with flags.
func runWith(s *State, flags config.Overrides) string {
	words := []string{command(s, "replypath run")}
	if s.ConfigPath != "" && s.ConfigPath != config.DefaultPath {
		words = append(words, "--config", quote(s.ConfigPath))
	}
	return strings.Join(append(words, quoteAll(flags.Words())...), " ")
}

// quoteAll writes words as the shell reads them.
func quoteAll(words []string) []string {
	var quoted []string
	for _, word := range words {
		quoted = append(quoted, quote(word))
	}
	return quoted
}

// rename is what has another interface be managed in the place of one that is not there.
func rename(s *State, from, to string) string {
	if !slices.Contains(s.Config.Flags.Interfaces, from) {
		return configure(s, fmt.Sprintf("write %s in the place of %s under interfaces", yamlWord(to), yamlWord(from)))
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

// enforce is the command that ends observing, with what it takes to have it last.
func enforce(h *Host, name string) string {
	command := command(&h.State, "replypath mode enforce")
	entry := entryOf(h, name)
	switch {
	case h.Config.Flags.Observe:
		return explained(command, "until the next start: leave --observe out then")
	case entry != nil && entry.Mode == config.ModeObserve:
		return explained(command, "until the next start; for good: mode: enforce for name: "+yamlWord(entry.Name)+" in "+h.ConfigPath)
	case h.Config.Mode == config.ModeObserve && (entry == nil || entry.Mode == ""):
		return explained(command, "until the next start; for good: mode: enforce in "+h.ConfigPath)
	}
	return command // somebody has switched, against the configuration
}
