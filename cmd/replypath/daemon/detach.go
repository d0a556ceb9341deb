// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/loader/config"
	"replypath/loader/detach"
	"replypath/loader/pins"
)

// Detach takes a datapath away; see detach.Run.
type Detach func(context.Context, detach.Options) (removed []string, err error)

// NewDetach returns the command detach.
func NewDetach(a *cli.App, run Detach) *cobra.Command {
	var stop bool
	c := &cobra.Command{
		Use:   "detach",
		Short: "Remove everything that replypath put on this host",
		Long: `Remove the programs, pins, routes, device and neighbour entries of replypath, and the
qdiscs that it added. Restore the sysctls that replypath changed, where its value is
still set.

It needs no daemon and may be repeated. Beside a running daemon it is refused, unless
--stop ends that first. A directory without pins is refused if the datapath of this
network namespace is pinned elsewhere. The error names that directory.`,
		Args: cli.NoArguments,
	}
	c.Flags().BoolVar(&stop, "stop", false, "end a running daemon first")
	c.RunE = func(c *cobra.Command, _ []string) error {
		log, _ := newLogger(a.Stderr, config.Log{Level: slog.LevelWarn, Format: config.FormatText})
		removed, err := run(c.Context(), detach.Options{PinDir: a.PinDir, Stop: stop, Log: log})
		for _, what := range removed {
			fmt.Fprintln(a.Stdout, "removed", what)
		}
		if errors.Is(err, pins.ErrOwned) && !stop {
			return fmt.Errorf("%w: end it first, or use --stop", err)
		}
		if err == nil && len(removed) == 0 {
			fmt.Fprintln(a.Stdout, "nothing is attached")
		}
		return err
	}
	return c
}
