// SPDX-License-Identifier: Apache-2.0

// Package remedy writes the commands of replypath, and the changes of its configuration, that mend a finding.
package remedy

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/config"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
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
	if !s.IsByUnit() {
		words += " --pin-dir " + finding.Quote(s.PinDir)
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
