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
	"replypath/loader/finding"
)

// Examine looks at a host; see doctor.Examine.
type Examine func(doctor.Options) ([]doctor.Finding, error)

// NewDoctor returns the command doctor.
func NewDoctor(a *cli.App, examine Examine) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find what breaks or weakens replies on this host",
		Long: `Look for settings of this host that break or weaken replies: sysctls, routes, rules,
firewalls, other programs, silent gateways. It changes nothing. It works with and
without a daemon, and before the first start. Then it first looks at what a start needs
of the host. It uses the configuration in force, with the flags of run.

Without --config it examines what is in force, or what a start would read. Without the
rights of root it looks at what it may, and names what it left out.

Below a finding is the command or line that repairs it (fix). A fix sets a sysctl of a
managed interface or a line of the configuration, or is a command of replypath. No fix
takes traffic away.

Rules, routes, marks, firewall rules, offloads, files and programs
belong to their makers, and have no fix. They have a command that only reads (inspect),
and an owner where the protocol of a route or rule says it. Text after # is for you.

Exit code 3 means that an error remains.`,
		Example: `  replypath doctor
  replypath doctor -o json | jq '.[] | select(.severity == "error")'`,
		Args: cli.NoArguments,
	}
	file := cli.AddConfigFile(c)
	o := cli.AddOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		options, err := examined(a.PinDir, file)
		if err != nil {
			return err
		}
		findings, err := examine(options)
		if err != nil {
			return err
		}
		if err := o.Print(a.Stdout, findings, func(p *output.Page) { showFindings(p, findings) }); err != nil {
			return err
		}
		return remaining(findings)
	}
	return c
}

// examined says what doctor looks at: by the configuration in force, unless a file is named.
func examined(pinDir string, file *cli.ConfigFile) (doctor.Options, error) {
	options := doctor.Options{PinDir: pinDir}
	if !file.Named() {
		return options, nil
	}
	var err error
	options.Config, _, err = file.Load()
	options.ConfigPath = file.Path
	return options, err
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

// showFindings shows what is to be done, and names the rest. What is in order and
// somebody's is shown as well: it is a choice.
func showFindings(p *output.Page, findings []doctor.Finding) {
	var shown, fine []string
	for i := range findings {
		f := &findings[i]
		if f.Severity == doctor.OK && f.Inspect == nil {
			fine = append(fine, f.Check)
			continue
		}
		shown = append(shown, f.Check)
		showFinding(p, f)
	}
	fine = slices.DeleteFunc(slices.Compact(fine), func(check string) bool { return slices.Contains(shown, check) })
	p.Wrapped("", "in order: "+output.OrDash(strings.Join(fine, ", ")))
}

// severityColours are those of what has to be done.
var severityColours = map[finding.Severity]string{doctor.Error: "31", doctor.Warning: "33"}

// showFinding shows a finding, what to do about it and whose it is, above an empty line.
func showFinding(p *output.Page, f *doctor.Finding) {
	head := fmt.Sprintf("%-7s  %s  %s", f.Severity, f.Check, output.OrDash(output.Printable(output.OrEmpty(f.Interface))))
	if p.Colour {
		head = output.Coloured(head, severityColours[f.Severity])
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
