// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/doctor"
)

// Examine looks at a host; see doctor.Examine and doctor.Fix.
type Examine func(doctor.Options) ([]doctor.Finding, error)

// NewDoctor returns the command doctor, which looks by examine, and with --fix by mend.
func NewDoctor(a *cli.App, examine, mend Examine) *cobra.Command {
	var fix bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find what breaks or weakens replies on this host",
		Long: `Look for settings of this host that break or weaken replies: sysctls, routes, rules,
firewalls, other programs, silent gateways. It works with and without a daemon, and
before the first start. Then it first looks at what a start needs of the host. It uses
the configuration in force, with the flags of run.

Without --config it examines what is in force, or what a start would read. Without the
rights of root it looks at what it may, and names what it left out.

Below a finding is the command or line that repairs it (fix). A fix sets a sysctl of a
managed interface or a line of the configuration, or is a command of replypath. No fix
takes traffic away.

Rules, routes, marks, firewall rules, offloads, files and programs
belong to their makers, and have no fix. They have a command that only reads (inspect),
and a likely owner (owner). Text after # is for you to read.

--fix sets the sysctls (automatic in the JSON). From then on status lists them, and
detach restores them. --fix names the checks that it leaves to you.

Exit code 3 means that an error remains.

With -o json it is an array. Each object has:
  check      what was examined
  severity   error: replies, or what this host opens, fail now; warning: they will, or go
             right by luck; note: worth knowing; ok
  interface  null: the host as a whole
  subject    what it is about: an interface, an address, a table
  found      the finding in one line
  evidence   count, since, until; null where nothing was counted
  anchor     where the guide says more
  fix        what repairs it and takes no traffic away; null if nothing does
  inspect    a command that only reads; null if there is none
  owner      the likely owner; null if unknown
  automatic  whether --fix does it
  fixed      whether this call has done it`,
		Example: `  replypath doctor
  replypath doctor --fix
  replypath doctor -o json | jq '.[] | select(.severity == "error")'`,
		Args: cli.NoArguments,
	}
	file := cli.AddConfigFile(c)
	o := cli.AddOutput(c)
	c.Flags().BoolVar(&fix, "fix", false, "set the sysctls that repair a finding; name what is left to you")
	c.RunE = func(*cobra.Command, []string) error {
		options, err := examined(a.PinDir, file)
		if err != nil {
			return err
		}
		look := examine
		if fix {
			look = mend
		}
		findings, err := look(options)
		if findings == nil && err != nil {
			return err
		}
		table := func(p *output.Page) { showFindings(p, findings, fix) }
		if err := o.Print(a.Stdout, findings, table); err != nil {
			return err
		}
		if err != nil {
			return err
		}
		return remaining(findings)
	}
	return c
}

// remaining is the exit code 3.
func remaining(findings []doctor.Finding) error {
	var checks []string
	for _, f := range findings {
		if f.Severity == doctor.Error && !slices.Contains(checks, f.Check) {
			checks = append(checks, f.Check)
		}
	}
	if len(checks) == 0 {
		return nil
	}
	err := fmt.Errorf("errors remain in %s: do what stands below each", strings.Join(checks, ", "))
	return &cli.ExitError{Code: cli.ExitNothing, Err: err}
}

// showFindings shows what is to be done, or was done, and names the rest. What is in
// order and somebody's is shown as well, as it must not be taken for needless.
func showFindings(p *output.Page, findings []doctor.Finding, afterFix bool) {
	var shown, fine, left []string
	for i := range findings {
		f := &findings[i]
		switch {
		case f.Fixed:
		case f.Severity == doctor.OK && f.Inspect == nil:
			fine = append(fine, f.Check)
			continue
		case f.Severity != doctor.OK && !f.Automatic && !slices.Contains(left, f.Check):
			left = append(left, f.Check)
		}
		shown = append(shown, f.Check)
		showFinding(p, f)
	}
	if afterFix && len(left) > 0 {
		p.Wrapped("", "left to you, as --fix sets sysctls only: "+strings.Join(left, ", "))
	}
	fine = slices.DeleteFunc(slices.Compact(fine), func(check string) bool { return slices.Contains(shown, check) })
	p.Wrapped("", "in order: "+output.OrDash(strings.Join(fine, ", ")))
}

// severityColours are those of what has to be done, and of what was done.
var severityColours = map[string]string{string(doctor.Error): "31", string(doctor.Warning): "33", fixed: "32"}

// fixed stands in the place of the severity of what was mended.
const fixed = "fixed"

// showFinding shows a finding, what to do about it and whose it is, above an empty line.
func showFinding(p *output.Page, f *doctor.Finding) {
	severity := string(f.Severity)
	if f.Fixed {
		severity = fixed
	}
	head := fmt.Sprintf("%-7s  %s  %s", severity, f.Check, output.OrDash(output.Printable(output.OrEmpty(f.Interface))))
	if p.Colour {
		head = output.Coloured(head, severityColours[severity])
	}
	p.Line("%s", head)
	p.Wrapped(findingIndent, f.Found)
	showCommand(p, "fix", f.Fix)
	showCommand(p, "inspect", f.Inspect)
	if f.Owner != nil {
		p.Wrapped(findingIndent, "owner: "+*f.Owner)
	}
	p.Line("")
}

const findingIndent = "  "

// showCommand shows a command in one line, as it is to be pasted. A remark behind it that
// has no room there stands below.
func showCommand(p *output.Page, name string, command *string) {
	if command == nil {
		return
	}
	line := findingIndent + name + ": " + *command
	typed, remark, isRemarked := strings.Cut(line, "  # ")
	if !isRemarked || utf8.RuneCountInString(line) <= p.ProseWidth() {
		p.Line("%s", line)
		return
	}
	p.Line("%s", typed)
	p.Wrapped(findingIndent+"# ", remark)
}
