// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/loader"
	"replypath/loader/pins"
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

// confirmTime is how long a process has to end after it was told to keep what is on
// trial.
const confirmTime = 15 * time.Second

// confirmTrial tells the process that has a trial going on to keep it, and waits
// until it has.
func confirmTrial(_ context.Context, pinDir string) error {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return err
	}
	holder, err := pins.Holder(pinDir)
	if err != nil {
		return err
	}
	if journal.Trial == nil || holder == 0 {
		return fmt.Errorf("nothing is on trial in %s: start replypath try", pinDir)
	}
	process, err := unix.PidfdOpen(holder, 0)
	if err != nil {
		return fmt.Errorf("find process %d, which has the trial: %w", holder, err)
	}
	defer unix.Close(process)
	if again, err := pins.Holder(pinDir); err != nil || again != holder {
		return errors.Join(err, fmt.Errorf("the trial in %s has just ended", pinDir))
	}
	if err := unix.PidfdSendSignal(process, unix.SIGUSR1, nil, 0); err != nil {
		return fmt.Errorf("tell process %d to keep what is on trial: %w", holder, err)
	}
	if ended, err := awaitEnd(endOf(process), confirmTime); err != nil || !ended {
		return errors.Join(err, fmt.Errorf("process %d does not end", holder))
	}
	return checkKept(pinDir, journal.LoadedAt)
}

// checkKept returns an error unless the datapath whose configuration was loaded at
// some time is in place for good.
func checkKept(pinDir string, loaded time.Time) error {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil && !errors.Is(err, loader.ErrNotAttached) {
		return err
	}
	if err != nil || journal.Trial != nil || !journal.LoadedAt.Equal(loaded) {
		return errors.New("it came too late: everything was taken back")
	}
	return nil
}

// endOf tells when the process behind a descriptor has ended.
func endOf(process int) <-chan error {
	ended := make(chan error, 1)
	go func() {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, -1)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				err = fmt.Errorf("wait for a process: %w", err)
			}
			ended <- err
			return
		}
	}()
	return ended
}

// awaitEnd waits until a process has ended, and tells whether it did in time.
func awaitEnd(end <-chan error, limit time.Duration) (ended bool, err error) {
	select {
	case err := <-end:
		return err == nil, err
	case <-time.After(limit):
		return false, nil
	}
}
