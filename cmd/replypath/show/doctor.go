// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"slices"
	"strings"

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
		Short: "Find what on this host breaks or weakens the reply path",
		Long: `Look for settings of this host that break or weaken the reply path: sysctls, routes,
rules, firewalls, other programs, gateways that do not answer. It works with and
without a daemon, and before the first start: what that takes of the host is looked
at first. It goes by the configuration in force, flags of run included.

Without --config it examines what is in force, or what a start would read. Without root's
rights it looks at what it may, and names what it left out.

Below a finding stands what mends it (fix): sysctls of managed interfaces, replypath's
own commands, or the line of the configuration to be set. No fix takes traffic away.
Rules, routes, marks, firewall rules, offloads, files and programs belong to who made
them, and have no fix. For them there are a command that only reads (inspect) and whose
they seem to be (owner). What stands behind # is for you to read.

--fix sets the sysctls ("automatic" in the JSON). They stand in status from then on,
and detach takes them back. --fix names the checks that it leaves to you.

Exit code 3: an error remains.

With -o json it is an array; each has
  check, severity   what was looked at; error, warning or ok
  interface         null: the host as a whole
  found             one line
  fix               what mends it and takes no traffic away; null where nothing does
  inspect, owner    a command that only reads; whose it seems to be; null where unknown
  automatic, fixed  whether --fix does it; whether this call has`,
		Example: `  replypath doctor
  replypath doctor --fix
  replypath doctor -o json | jq '.[] | select(.severity == "error")'`,
		Args: cli.NoArguments,
	}
	file := cli.AddConfigFile(c)
	o := cli.AddOutput(c)
	c.Flags().BoolVar(&fix, "fix", false, "set the sysctls that mend a finding; name what is left to you")
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
	err := fmt.Errorf("errors remain in %s: read what stands below each, --fix sets the sysctls among it", strings.Join(checks, ", "))
	return &cli.ExitError{Code: cli.ExitNothing, Err: err}
}

// showFindings shows what is to be done, or was done, and names the rest. What is in
// order and somebody's is shown as well, as it must not be taken for needless.
func showFindings(p *output.Page, findings []doctor.Finding, afterFix bool) {
	var rows, notes [][]string
	var fine, left []string
	for _, f := range findings {
		severity := string(f.Severity)
		switch {
		case f.Fixed:
			severity = "fixed"
		case f.Severity == doctor.OK && f.Inspect == nil:
			if !slices.Contains(fine, f.Check) {
				fine = append(fine, f.Check)
			}
			continue
		case f.Severity != doctor.OK && !f.Automatic && !slices.Contains(left, f.Check):
			left = append(left, f.Check)
		}
		rows = append(rows, []string{severity, f.Check, output.OrEmpty(f.Interface), f.Found})
		notes = append(notes, advice(&f))
	}
	if len(rows) > 0 {
		p.NotedTable([]string{"SEVERITY", "CHECK", "INTERFACE", "FOUND"}, rows, notes)
		p.Line("")
	}
	if afterFix && len(left) > 0 {
		p.Line("left to you, as --fix sets sysctls only: %s", strings.Join(left, ", "))
	}
	shown := func(check string) bool {
		return slices.ContainsFunc(rows, func(row []string) bool { return row[1] == check })
	}
	p.Line("in order: %s", output.OrDash(strings.Join(slices.DeleteFunc(fine, shown), ", ")))
}

// advice is what stands below a finding, a line each.
func advice(f *doctor.Finding) []string {
	var notes []string
	for _, note := range []struct {
		name string
		text *string
	}{{"fix", f.Fix}, {"inspect", f.Inspect}, {"owner", f.Owner}} {
		if note.text != nil {
			notes = append(notes, note.name+": "+*note.text)
		}
	}
	return notes
}
