// SPDX-License-Identifier: Apache-2.0

// Package show is the commands that read the pins and the host, or the configuration for it, and show what that means.
package show

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/finding"
	"replypath/loader/pins"
	"replypath/loader/status"
)

// NewStatus returns the command status; read reads the pins, see status.Read.
func NewStatus(a *cli.App, read func(pinDir string) (*status.Status, error)) *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is attached, how, and what was changed on the host",
		Long: `Show what is attached, and what was changed on the host. It reads the pins and needs no
daemon. Exit code 3 means that nothing is attached, or that the first line says failed.

The first line is the answer. It begins with ok, degraded or failed, by the findings of
doctor. It is failed where one is an error or nothing is attached, and degraded where one
is a warning. It says:
  what is wrong     the worst finding first
  what is done      on which interfaces replypath enforces or only observes
  what came of it   how many replies it corrected, could not correct and lost; in mode
                    observe how many it would correct
  since             when the counters began
A reply is a packet there. Where the line has no room, interfaces are only counted, and
what matters least is left out. It has at most 80 characters.

Packets that were lost or not corrected in the last hour or two are a finding. A few are
none: up to 3 between two interfaces, or one in a thousand. The first line does not
count packets of the reasons observe, bound_device and unnamed_tunnel: they go as
somebody wants it.

Below it stand the interfaces and their gateways, the daemon, and how many flows there
are. Then comes only what is wrong or was changed. In mode observe that is also what
enforcing would change. --verbose shows all the rest, in longer lines.

Tables fit the terminal: columns that do not fit are left out. In a pipe or a file all are
there.

The state of a gateway is:
  reachable, stale, failed  its last answer
  held                      silent, but its entry is kept; mac is null if it never answered
  none, incomplete          no answer yet`,
		Args: cli.NoArguments,
	}
	o := cli.AddOutput(c)
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "show everything: kernel features, interfaces that are not managed, how to undo changes")
	c.RunE = func(*cobra.Command, []string) error {
		s, err := read(a.PinDir)
		if errors.Is(err, pins.ErrNone) {
			return showNothing(a, o, s, err)
		}
		if err != nil {
			return err
		}
		s.Conclude(time.Now())
		if err := o.Print(a.Stdout, s, func(p *output.Page) { showStatus(p, s, verbose) }); err != nil {
			return err
		}
		switch {
		case !anyAttached(s.Interfaces):
			err = errors.New("no interface is attached: see replypath doctor")
		case s.Health.State == finding.Failed:
			err = errors.New("replies, or what this host opens, fail now: see replypath doctor")
		default:
			return nil
		}
		return &cli.ExitError{Code: cli.ExitNothing, Err: err}
	}
	return c
}

// showNothing prints a status with hardly anything in it: every key of the JSON is there, and people are told what doctor
// finds.
func showNothing(a *cli.App, o *cli.Output, s *status.Status, reason error) error {
	nothing := struct {
		*status.Status
		Mode *string `json:"mode"` // unknown
	}{Status: s}
	nothing.Conclude(time.Now())
	text := func(p *output.Page) {
		p.Line("%s", output.Printable(nothing.Summary))
		showWorst(p, &nothing.Health)
	}
	if err := o.Print(a.Stdout, nothing, text); err != nil {
		return err
	}
	return &cli.ExitError{Code: cli.ExitNothing, Err: reason}
}
