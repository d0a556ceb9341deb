// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/pins"
)

const (
	defaultTrial = 120 * time.Second
	longestTrial = 24 * time.Hour
)

// NewTry returns the command try.
func NewTry(a *cli.App, host Host) *cobra.Command {
	t := &trial{daemon: &daemon{App: a, host: host, trial: defaultTrial}}
	c := &cobra.Command{
		Use:   "try",
		Short: "Enforce, and take everything back unless you confirm in time",
		Long: `Attach to every managed interface and move replies as run does, but only for a while.
Unless you confirm in time, replypath takes everything back. What was attached before,
such as a datapath in mode observe, is then in place again.

It is taken back as well when the terminal goes away, and when the process is
interrupted. If the process is killed or hangs, the programs in the kernel only observe
from the end of the trial on. The next run, try, try confirm or mode then takes back the
rest, and says so. So you can use try over the very connection that it changes.

Enter at the terminal confirms. So do replypath try confirm and the signal SIGUSR1. The
process then ends, and what is attached stays. replypath run takes it over and keeps
watch.

It takes over from a running daemon that only observes, which ends. Beside one that
enforces try is refused. It enforces whatever mode the file has. An interface with a mode
of its own keeps that.

Exit codes:
  0  confirmed
  1  taken back, or failed`,
		Example: `  replypath try
  replypath try --timeout 30s --interface eth0 --interface eth1`,
		Args: cli.NoArguments,
	}
	t.addFlags(c)
	c.Flags().Var(cli.Value(&t.trial, "time", "120s", trialTime), "timeout", "how long there is to confirm")
	cli.Complete(c, "timeout", func() []string { return nil })
	c.RunE = func(c *cobra.Command, _ []string) error {
		t.overrides.Enforce = true
		return t.run(c.Context())
	}
	c.AddCommand(newConfirm(a, host))
	return c
}

// trialTime reads how long a trial may take.
func trialTime(text string) (time.Duration, error) {
	duration, err := time.ParseDuration(text)
	if err != nil || duration < time.Second || duration > longestTrial {
		return 0, fmt.Errorf("%q is not a time from 1s to 24h such as 120s or 5m", text)
	}
	return duration, nil
}

// trial is the process behind `replypath try`.
type trial struct {
	*daemon

	observer int // pid of the daemon that observed before; 0: there was none
}

// takeOver attaches, in the place of a daemon that only observes if there is one.
func (t *trial) takeOver(ctx context.Context) error {
	err := t.attach()
	if !errors.Is(err, pins.ErrOwned) {
		return err
	}
	pid, endErr := t.host.EndObserver(ctx, t.PinDir)
	if pid == 0 || endErr != nil {
		return errors.Join(err, endErr)
	}
	t.observer = pid
	if err := t.attach(); err != nil {
		return fmt.Errorf("%w: the daemon that observed, pid %d, has ended: start it again", err, pid)
	}
	return nil
}

// run attaches until it is confirmed or taken back.
func (t *trial) run(ctx context.Context) error {
	signals, stop := t.host.TrialSignals()
	defer stop()
	if err := t.takeOver(ctx); err != nil {
		return err
	}
	if err := t.datapath.CountDown(); err != nil { // however long the start took, the time is the operator's
		return t.giveUp(err)
	}
	running, unwatch := t.watch(ctx)
	t.say("on trial: "+t.effect(), fmt.Sprintf("press Enter within %s to keep it, or run:", t.trial), "try confirm")

	reason := t.await(running, signals)
	_ = unwatch() // what failed before is the reason
	if reason == nil {
		reason = t.datapath.Keep()
	}
	if reason == nil {
		t.say("kept: "+t.effect()+", without a process", "to take it over and keep watch, run:", "run")
		return t.datapath.Close()
	}
	return t.giveUp(reason)
}

// say tells what is there and what can be done, with the command for that in a line of its own.
func (t *trial) say(what, todo, command string) {
	page := output.NewPage(t.Stdout)
	page.Wrapped("", what)
	page.Wrapped("", todo)
	page.Line("  %s", t.CommandLine(command))
	_, _ = page.WriteTo(t.Stdout) // the terminal may have gone
}

// effect says what is on trial.
func (t *trial) effect() string {
	effect, err := t.datapath.Effect()
	if err != nil {
		return fmt.Sprintf("what is attached cannot be shown (%v)", err)
	}
	return sentence(effect, "")
}

// await returns nil once the trial is confirmed, else why it is over.
func (t *trial) await(running context.Context, signals <-chan os.Signal) error {
	timer := time.NewTimer(t.trial)
	defer timer.Stop()
	select {
	case <-enter(t.host.Stdin):
		return nil
	case signal := <-signals:
		if signal == unix.SIGUSR1 {
			return nil
		}
		return fmt.Errorf("ended by a signal (%s)", signal)
	case <-timer.C:
		return fmt.Errorf("not confirmed within %s", t.trial)
	case <-running.Done():
		return context.Cause(running)
	}
}

// giveUp takes everything back. Should it fail, the programs observe when the time is over.
func (t *trial) giveUp(reason error) error {
	closeErr := t.datapath.Close()
	done, err := t.host.TakeBack(t.PinDir, t.log)
	switch {
	case err != nil:
		return fmt.Errorf("%w: taking it back failed, use %s: %w", reason, t.CommandLine("detach"), errors.Join(err, closeErr))
	case !done:
		return fmt.Errorf("%w: somebody else has taken it back", reason)
	}
	if t.observer != 0 {
		return fmt.Errorf("%w: everything is as it was before, except the daemon that observed, pid %d: start it again", reason, t.observer)
	}
	return fmt.Errorf("%w: everything is as it was before", reason)
}
