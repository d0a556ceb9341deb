package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"replypath/loader/doctor"
)

func newDoctor(a *app) *cobra.Command {
	var fix bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find what on this host breaks or weakens the reply path",
		Long: `Look for settings of this host that break or weaken the reply path: sysctls, routes,
rules, firewalls, other programs, gateways that do not answer. Every finding comes
with the command that mends it, unless somebody has to decide. It works with and
without a daemon, and before the first start.

--fix sets the sysctls that can be set without asking anybody. They stand in status
from then on, and detach takes them back; rules, routes and firewalls of others are
left to be changed by hand.

Exit code 3: an error remains.`,
		Example: `  replypath doctor
  replypath doctor --fix
  replypath doctor -o json | jq '.[] | select(.severity == "error")'`,
		Args: noArguments,
	}
	file := addConfigFile(c)
	o := addOutput(c)
	c.Flags().BoolVar(&fix, "fix", false, "set the sysctls that mend a finding")
	c.RunE = func(*cobra.Command, []string) error { return a.runDoctor(file, o, fix) }
	return c
}

func (a *app) runDoctor(file *configFile, o *output, fix bool) error {
	if path := a.configInForce(a.pinDir); path != "" && !file.named() {
		file.path = path
	}
	cfg, _, err := file.load()
	if err != nil {
		return err
	}
	examine := a.examine
	if fix {
		examine = a.fix
	}
	findings, err := examine(doctor.Options{PinDir: a.pinDir, Config: cfg, ConfigPath: file.path})
	if findings == nil && err != nil {
		return err
	}
	if err := o.print(a.stdout, findings, func(w io.Writer) error { return writeFindings(w, findings) }); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	return remaining(findings)
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
	return &exitError{exitNothing, fmt.Errorf("errors remain in %s: the column FIX tells what mends them, --fix sets sysctls", strings.Join(checks, ", "))}
}

// writeFindings shows what is to be done, or was done, and names the rest.
func writeFindings(w io.Writer, findings []doctor.Finding) error {
	var rows [][]string
	var fine []string
	for _, f := range findings {
		switch {
		case f.Fixed:
			rows = append(rows, []string{"fixed", f.Check, orEmpty(f.Interface), f.Found, ""})
		case f.Severity != doctor.OK:
			rows = append(rows, []string{string(f.Severity), f.Check, orEmpty(f.Interface), f.Found, orEmpty(f.Fix)})
		case !slices.Contains(fine, f.Check):
			fine = append(fine, f.Check)
		}
	}
	if len(rows) > 0 {
		if err := writeTable(w, []string{"SEVERITY", "CHECK", "INTERFACE", "FOUND", "FIX"}, rows); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
	}
	return writeFine(w, fine, rows)
}

// writeFine names the checks that found everything in order.
func writeFine(w io.Writer, fine []string, rows [][]string) error {
	shown := func(check string) bool {
		return slices.ContainsFunc(rows, func(row []string) bool { return row[1] == check })
	}
	fine = slices.DeleteFunc(fine, shown)
	_, err := fmt.Fprintf(w, "in order: %s\n", orDash(strings.Join(fine, ", ")))
	return err
}
