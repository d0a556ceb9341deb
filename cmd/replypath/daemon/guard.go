// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/loader/config"
)

const (
	// guardianReady is what the guardian writes once nothing of the terminal's can
	// end it any more.
	guardianReady = "ready\n"
	// trialBegun is what the guardian reads once everything is attached.
	trialBegun = "begun\n"
	// guardianSlack is how much longer than the trial the guardian waits for the end
	// of the process that has it, for what it does by itself.
	guardianSlack = 10 * time.Second
	// startLimit is how long the guardian waits for the begin of the trial. Hundreds of
	// interfaces take a quarter of a minute; only what hangs may get here.
	startLimit = 2 * time.Minute
	// guardianAttempts are how often it tries to take back a trial, guardianPause apart.
	guardianAttempts = 5
	guardianPause    = time.Second
)

// NewGuard returns the command that startGuardian runs.
func NewGuard(a *cli.App, host Host) *cobra.Command {
	timeout := defaultTrial
	c := &cobra.Command{
		Use:    "guard",
		Short:  "Take the parent's trial back when it has ended or hangs",
		Hidden: true,
		Args:   cli.NoArguments,
		RunE:   func(*cobra.Command, []string) error { return host.guardParent(a, timeout) },
	}
	c.Flags().Var(cli.Value(&timeout, "time", timeout.String(), trialTime), "timeout", "how long the trial may take")
	return c
}

// startGuardian starts a process, in a session of its own, that takes back what is on
// trial in the pin directory once this process has ended without a verdict, or hangs.
// It returns when the guardian is on duty.
func startGuardian(pinDir string, timeout time.Duration) (*Guardian, error) {
	c := exec.Command("/proc/self/exe", "guard", "--pin-dir", pinDir, "--timeout", timeout.String())
	c.Args[0] = os.Args[0]
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("watch over the trial: %w", err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("watch over the trial: %w", err)
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start a process that watches over the trial: %w", err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the process that watches over the trial: %w", errors.Join(err, c.Wait()))
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait() // that it has ended is enough
	}()
	begun := func() error {
		_, err := io.WriteString(in, trialBegun)
		return err
	}
	return &Guardian{ended, begun}, nil
}

// guardParent waits for the end of the parent, or ends it when its time is over, and
// takes back what it left on trial.
func (h *Host) guardParent(a *cli.App, timeout time.Duration) error {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	log := guardianLog()
	pid := os.Getppid()
	parent, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(parent)
	if os.Getppid() != pid {
		return errors.New("the parent has ended")
	}
	if _, err := fmt.Fprint(a.Stdout, guardianReady); err != nil {
		return err
	}
	ended := endOf(parent)
	inTime, err := awaitTrial(ended, enter(h.Stdin), timeout)
	if !inTime {
		log.Warn("replypath try hangs, it is ended", "pid", pid)
		_ = unix.PidfdSendSignal(parent, unix.SIGKILL, nil, 0) // it may have ended
		_, err = awaitEnd(ended, guardianSlack)                // it may hang in the kernel: whether it owns the pins shows
	}
	done, takeErr := h.insistOnTakingBack(a.PinDir, pid, log)
	err = errors.Join(err, takeErr)
	if done {
		log.Warn("replypath try ended without a verdict, everything was taken back", "pid", pid)
	}
	if err != nil {
		log.Error("a trial was not taken back, use "+a.CommandLine("detach"), "error", err)
	}
	return err
}

// insistOnTakingBack tries again where that fails: there is nobody else who would. It may fail after everything was put
// back, and then find nothing left to do.
func (h *Host) insistOnTakingBack(pinDir string, pid int, log *slog.Logger) (done bool, err error) {
	for attempt := 1; ; attempt++ {
		now, err := h.TakeBack(pinDir, pid, log)
		done = done || now
		if err == nil || attempt == guardianAttempts {
			return done, err
		}
		log.Warn("a trial is not taken back yet", "attempt", attempt, "error", err)
		time.Sleep(guardianPause)
	}
}

// awaitTrial waits until the process that has a trial has ended, and tells whether it did
// in time: that of the trial runs from when it is told to have begun.
func awaitTrial(ended <-chan error, begun <-chan struct{}, timeout time.Duration) (inTime bool, err error) {
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	for {
		select {
		case err := <-ended:
			return true, err
		case <-begun:
			begun = nil
			limit.Reset(timeout + guardianSlack)
		case <-limit.C:
			return false, nil
		}
	}
}

// guardianLog writes to syslog: there may be no terminal any more. Without one it
// writes nothing.
func guardianLog() *slog.Logger {
	writer, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "replypath")
	if err != nil {
		return slog.New(slog.DiscardHandler)
	}
	log, _ := newLogger(writer, config.Log{Level: slog.LevelInfo, Format: config.FormatText})
	return log
}
