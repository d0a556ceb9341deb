package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"replypath/loader/config"
	"replypath/loader/doctor"
)

func newDoctor(a *app) *cobra.Command {
	var fix bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find what on this host breaks or weakens the reply path",
		Long: `Look for settings of this host that break or weaken the reply path: sysctls, routes,
rules, firewalls, other programs, gateways that do not answer. Every finding comes
with what mends it: a command for the shell, made for this host, or the line of the
configuration to be set. What stands behind # is for you to read. It works with and
without a daemon, and before the first start.

--fix sets the sysctls among them ("automatic" in the JSON). They stand in status
from then on, and detach takes them back. Rules, routes, firewalls, programs, MTUs,
offloads and the configuration belong to others: their commands are left to you, and
--fix names them.

Exit code 3: an error remains.

With -o json it is an array; each has
  check, severity   what was looked at; error, warning or ok
  interface         null: the host as a whole
  found, fix        one line; what mends it, null where it is ok
  automatic, fixed  whether --fix does it; whether this call has`,
		Example: `  replypath doctor
  replypath doctor --fix
  replypath doctor -o json | jq '.[] | select(.severity == "error")'`,
		Args: noArguments,
	}
	file := addConfigFile(c)
	o := addOutput(c)
	c.Flags().BoolVar(&fix, "fix", false, "set the sysctls that mend a finding; name what is left to you")
	c.RunE = func(*cobra.Command, []string) error { return a.runDoctor(file, o, fix) }
	return c
}

func (a *app) runDoctor(file *configFile, o *output, fix bool) error {
	cfg, err := a.loadInForce(file)
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
	if err := o.print(a.stdout, findings, func(w io.Writer) error { return writeFindings(w, findings, fix) }); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	return remaining(findings)
}

// loadInForce loads the file that the datapath works by, unless another is named. Where it is
// gone, the defaults are not what is in force, nor is a file that the daemon does not see.
func (a *app) loadInForce(file *configFile) (*config.Config, error) {
	path := a.configInForce(a.pinDir)
	chosen := path == "" || file.named()
	if !chosen {
		file.path = path
		if why := a.elsewhere(a.pinDir, path); why != "" {
			return nil, &config.Error{File: path, Message: why}
		}
	}
	cfg, found, err := file.load()
	if err == nil && !found && !chosen {
		const gone = "the file of the configuration in force is gone: put it back, or name another by --config"
		return nil, &config.Error{File: path, Message: gone}
	}
	return cfg, err
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
	return &exitError{exitNothing, fmt.Errorf("errors remain in %s: the column FIX tells what mends them, --fix sets the sysctls among it", strings.Join(checks, ", "))}
}

// writeFindings shows what is to be done, or was done, and names the rest.
func writeFindings(w io.Writer, findings []doctor.Finding, afterFix bool) error {
	var rows [][]string
	var fine, left []string
	for _, f := range findings {
		switch {
		case f.Fixed:
			rows = append(rows, []string{"fixed", f.Check, orEmpty(f.Interface), f.Found, ""})
		case f.Severity != doctor.OK:
			rows = append(rows, []string{string(f.Severity), f.Check, orEmpty(f.Interface), f.Found, orEmpty(f.Fix)})
			if !f.Automatic && !slices.Contains(left, f.Check) {
				left = append(left, f.Check)
			}
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
	if afterFix && len(left) > 0 {
		if _, err := fmt.Fprintf(w, "left to you, as --fix sets sysctls only (read the column FIX, then type it): %s\n", strings.Join(left, ", ")); err != nil {
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
