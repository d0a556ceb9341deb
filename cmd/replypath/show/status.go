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
		Long: `Show the managed interfaces, how they are attached, their gateways, the number of
flows, the mode, the kernel's features, what was changed on the host, and what
enforcing would change where the mode is observe. It reads the pins and needs no
daemon. Exit code 3: nothing is attached.

With -o json it is one object; what is not known is null:
  mode            enforce or observe
  daemon          running, pid, version
  trial_until     when replypath try takes it back
  config          path, loaded_at, error: why a later one was refused
  interfaces[]    name, index, up, attached, mechanism (tcx, clsact), mode (the one
                  in force), next_hop, rp_filter; gateways[] with address, mac,
                  state: reachable, stale or failed by their last answer; held while they
                  are silent, with mac null where they never answered; none or incomplete
                  where there was no answer yet
  unmanaged[]     name, reason
  flows           count, capacity
  features[]      name, available, effect
  host_changes[]  object, before, after, undo
  would_change[]  object, before, after: what enforcing would change
  errors[]        what the daemon tries again, and standing warnings
  pin_dir`,
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
		err = errors.New("no interface is attached: replypath check tells what the configuration lacks")
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
