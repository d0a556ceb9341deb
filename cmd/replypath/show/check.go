// SPDX-License-Identifier: Apache-2.0

package show

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/daemon"
	"replypath/cmd/replypath/output"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/status"
)

// checkResult is what `replypath check` found.
type checkResult struct {
	File     string   `json:"file"`
	Present  bool     `json:"present"` // else the defaults are valid
	Valid    bool     `json:"valid"`
	Error    *string  `json:"error"` // the first of the errors
	Errors   []string `json:"errors"`
	Warnings []string `json:"warnings"`

	Interfaces []checked          `json:"interfaces"` // that would be managed
	Unmanaged  []status.Unmanaged `json:"unmanaged"`
	Caught     []string           `json:"caught"`  // names of those that routes lead out of
	Missing    []string           `json:"missing"` // configured names that no interface has
}

// checked is an interface that would be managed.
type checked struct {
	Name      string           `json:"name"`
	Mode      config.Mode      `json:"mode"`
	HostModel config.HostModel `json:"host_model"`
	NextHop   config.NextHop   `json:"next_hop"`
}

// Scan looks what a configuration means on this host, which takes no rights; see discover.Scan.
type Scan func(*config.Config) (discover.Result, error)

// NewCheck returns the command check.
func NewCheck(a *cli.App, scan Scan) *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Show whether the configuration is valid, and what it would manage",
		Long: `Show whether the configuration is valid. Exit code 0 means that it is. Exit code 2
means that it is not, and every error is shown.

Of a valid configuration it lists:
  interfaces  those that it would manage on this host, each with its mode, and with its
              host model if one is strong
  unmanaged   those that it would not manage, and why
  caught      those of them that routes lead out of: replies that leave there are caught
  missing     the names that no interface has

It warns of a name that no interface has, with the nearest one. It warns of what an
interface cannot do, such as next_hop: last-hop on a tunnel. It warns of routes by
which replies leave uncaught. It needs no rights. See replypath.yaml(5).`,
		Args: cli.NoArguments,
	}
	file := cli.AddConfigFile(c)
	o := cli.AddOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		result, err := check(file, scan)
		if err != nil && !o.JSON() {
			return err
		}
		return errors.Join(err, o.Print(a.Stdout, result, result.show))
	}
	return c
}

// check reads the file. Errors stand in the result as well.
func check(file *cli.ConfigFile, scan Scan) (*checkResult, error) {
	result := &checkResult{File: file.Path}
	cfg, found, err := file.Load()
	result.Present = found
	if cfg != nil { // as far as it could be read
		err = errors.Join(err, result.checkWebConfig(cfg))
	}
	result.Valid = err == nil
	if err != nil {
		result.Errors = strings.Split(err.Error(), "\n")
		result.Error = &result.Errors[0]
		result.Warnings = nil // those of half a configuration mislead
		return result, err
	}
	result.compare(cfg, scan)
	return result, nil
}

// compare looks what the configuration means on this host. That it could not be looked at is a
// warning only.
func (r *checkResult) compare(cfg *config.Config, scan Scan) {
	r.warn(cfg.Warnings()...)
	found, err := scan(cfg)
	if err != nil {
		r.warn(fmt.Sprintf("cannot compare it with this host: %v", err))
		return
	}
	for _, i := range found.Interfaces {
		r.Interfaces = append(r.Interfaces, checked{i.Name, i.Settings.Mode, i.Settings.HostModel, i.Settings.NextHop})
	}
	for _, i := range found.Caught {
		r.Caught = append(r.Caught, i.Name)
	}
	r.Unmanaged, r.Missing = found.Unmanaged, found.Missing
	r.warn(found.Warnings...)
	for _, u := range found.Uncaught {
		r.warn(fmt.Sprintf("replies that leave by %s are not caught: %s", u.Name, u.Reason))
	}
	if len(found.Interfaces) == 0 {
		r.warn("no interface is managed: no reply is caught")
	}
}

// checkWebConfig looks into the file that metrics.web_config_file names. It may
// hold secrets, so that not being allowed to is no error.
func (r *checkResult) checkWebConfig(cfg *config.Config) error {
	err := daemon.CheckMetrics(&cfg.Metrics)
	if errors.Is(err, fs.ErrPermission) {
		r.warn(fmt.Sprintf("metrics.web_config_file: not checked: %v", err))
		return nil
	}
	return err
}

func (r *checkResult) warn(warnings ...string) { r.Warnings = append(r.Warnings, warnings...) }

func (r *checkResult) show(p *output.Page) {
	state := "valid"
	if !r.Present {
		state = "not there, the defaults are valid"
	}
	p.Line("%s: %s", r.File, state)
	for _, warning := range r.Warnings {
		p.Hanging(fmt.Sprintf("%s: warning: %s", r.File, warning))
	}
	output.Section(p, r.fields(), r.rows())
}

// checkedRow is an interface, or the name of one, and what becomes of it.
type checkedRow struct{ name, managed, mode, hostModel, reason string }

// fields are those of the interfaces: the host model where one has another than most hosts.
func (r *checkResult) fields() []output.Field[checkedRow] {
	fields := []output.Field[checkedRow]{
		output.NewField("INTERFACE", 0, func(r *checkedRow) string { return r.name }),
		output.NewField("MANAGED", 0, func(r *checkedRow) string { return r.managed }),
		output.NewField("MODE", 0, func(r *checkedRow) string { return r.mode }),
		output.NewField("HOST MODEL", 0, func(r *checkedRow) string { return r.hostModel }),
		output.NewField("REASON", 0, func(r *checkedRow) string { return r.reason }),
	}
	if !slices.ContainsFunc(r.Interfaces, func(i checked) bool { return i.HostModel == config.HostModelStrong }) {
		fields = slices.Delete(fields, 3, 4)
	}
	return fields
}

func (r *checkResult) rows() []checkedRow {
	var rows []checkedRow
	for _, i := range r.Interfaces {
		rows = append(rows, checkedRow{name: i.Name, managed: "yes", mode: string(i.Mode), hostModel: string(i.HostModel)})
	}
	for _, name := range r.Missing {
		rows = append(rows, checkedRow{name: name, managed: "no", reason: "no such interface: it is managed once it appears"})
	}
	for _, u := range r.Unmanaged {
		managed := "no"
		if slices.Contains(r.Caught, u.Name) {
			managed = "catches"
		}
		rows = append(rows, checkedRow{name: u.Name, managed: managed, reason: u.Reason})
	}
	return rows
}
