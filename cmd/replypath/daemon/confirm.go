// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/loader/detach"
	"replypath/loader/pins"
	"replypath/loader/status"
)

func newConfirm(a *cli.App, host Host) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm",
		Short: "Confirm what is on trial",
		Long: `Confirm the replypath try that runs with this pin directory, from a script or from
another terminal.

Exit codes:
  0  what is attached stays
  1  nothing was on trial, or it was being taken back`,
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := host.Confirm(c.Context(), a.PinDir); err != nil {
				return err
			}
			fmt.Fprintln(a.Stdout, "confirmed")
			return nil
		},
	}
}

// confirmTrial tells the process that has a trial going on to keep it, and waits
// until it has. A trial whose process is gone is taken back.
func confirmTrial(ctx context.Context, pinDir string) error {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return err
	}
	if journal.Trial == nil {
		return fmt.Errorf("nothing is on trial in %s: start replypath try", pinDir)
	}
	if _, err := pins.EndHolder(ctx, pinDir, unix.SIGUSR1); err != nil {
		return err
	}
	_, err = detach.TakeBack(pinDir, slog.New(slog.DiscardHandler))
	return errors.Join(err, checkKept(pinDir, journal.LoadedAt))
}

// endObserver ends the daemon that only observes.
func endObserver(ctx context.Context, pinDir string) (pid int, err error) {
	only, err := status.OnlyObserves(pinDir)
	if !only || err != nil {
		return 0, err
	}
	return pins.EndHolder(ctx, pinDir, unix.SIGTERM)
}

// checkKept returns an error unless the datapath whose configuration was loaded at
// some time is in place for good.
func checkKept(pinDir string, loaded time.Time) error {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil && !errors.Is(err, pins.ErrNone) {
		return err
	}
	switch {
	case err != nil || !journal.LoadedAt.Equal(loaded):
		return errors.New("it came too late: everything was taken back")
	case journal.Trial != nil:
		return errors.New("the process that has the trial is not known from here")
	}
	return nil
}
