// SPDX-License-Identifier: Apache-2.0

// Package show is the commands that read the pins and the host, or the configuration for it, and show what that means.
package show

import (
	"errors"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader"
	"replypath/loader/status"
)

// NewStatus returns the command status; read reads the pins, see status.Read.
func NewStatus(a *cli.App, read func(pinDir string) (*status.Status, error)) *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is attached, how, and what was changed on the host",
		Long: `Show what is attached, and what was changed on the host. In mode observe it also shows
what enforcing would change. It reads the pins and needs no daemon. Exit code 3 means
that nothing is attached.

With -o json it is one object; what is not known is null:
  mode            enforce or observe
  daemon          running, pid, version
  trial_until     when replypath try takes everything back
  config          path, loaded_at; error: why a later file was refused
  interfaces[]    the managed interfaces, see below
  unmanaged[]     name, reason
  flows           count, capacity
  features[]      name, available, effect
  host_changes[]  object, before, after; undo: the command that restores it
  would_change[]  object, before, after: what enforcing would change
  errors[]        what the daemon tries again, and standing warnings
  pin_dir         the directory of the pins

Each of interfaces[] has:
  name        the interface
  index       its number
  up          whether it is up
  attached    whether programs are attached
  mechanism   tcx or clsact
  mode        the mode in force
  next_hop    as configured
  gateways[]  address, mac, state
  rp_filter   the effective value of IPv4: 0, 1 or 2

The state of a gateway is:
  reachable, stale, failed  its last answer
  held                      silent, but its entry is kept; mac is null if it never answered
  none, incomplete          no answer yet`,
		Args: cli.NoArguments,
	}
	o := cli.AddOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		s, err := read(a.PinDir)
		if errors.Is(err, loader.ErrNotAttached) {
			return showNothing(a, o, s, err)
		}
		if err != nil {
			return err
		}
		fillLists(s)
		if err := o.Print(a.Stdout, s, func(p *output.Page) { showStatus(p, s) }); err != nil || anyAttached(s.Interfaces) {
			return err
		}
		err = errors.New("no interface is attached: replypath check says what the configuration lacks")
		return &cli.ExitError{Code: cli.ExitNothing, Err: err}
	}
	return c
}

// showNothing prints a status with hardly anything in it, for whoever parses
// JSON: every key is there. What doctor changed is told to people as well.
func showNothing(a *cli.App, o *cli.Output, left *status.Status, reason error) error {
	nothing := struct {
		*status.Status
		Mode *string `json:"mode"` // unknown
	}{Status: &status.Status{PinDir: a.PinDir}}
	if left != nil {
		nothing.HostChanges = left.HostChanges
	}
	fillLists(nothing.Status)
	if o.JSON() || len(nothing.HostChanges) > 0 {
		changes := func(p *output.Page) { p.Table(changeHeader, output.Rows(nothing.HostChanges, changeRow)) }
		if err := o.Print(a.Stdout, nothing, changes); err != nil {
			return err
		}
	}
	return &cli.ExitError{Code: cli.ExitNothing, Err: reason}
}

// fillLists makes lists without items show as [] rather than null.
func fillLists(s *status.Status) {
	output.OrEmptyList(&s.Interfaces)
	output.OrEmptyList(&s.Unmanaged)
	output.OrEmptyList(&s.Features)
	output.OrEmptyList(&s.HostChanges)
	output.OrEmptyList(&s.WouldChange)
	output.OrEmptyList(&s.Errors)
	for i := range s.Interfaces {
		output.OrEmptyList(&s.Interfaces[i].Gateways)
	}
}
