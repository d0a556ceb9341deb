// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/loader"
	"replypath/loader/config"
	"replypath/loader/status"
	"replypath/test/await"
)

// trialRun is a running `replypath try`.
type trialRun struct {
	t       *testing.T
	path    *fakeDatapath
	signals chan os.Signal
	keys    *io.PipeWriter
	cancel  context.CancelFunc
	taken   int   // times that it was taken back
	failure error // of taking it back
	stdout  await.Log
	stderr  await.Log
	code    chan int
}

// startTrial runs `replypath try` until it can be confirmed.
func startTrial(t *testing.T, args ...string) *trialRun {
	t.Helper()
	return startTrialOn(t, correcting(), args...)
}

// startTrialOn is startTrial with what the datapath does.
func startTrialOn(t *testing.T, effect status.Effect, args ...string) *trialRun {
	t.Helper()
	keyboard, keys := io.Pipe()
	r := &trialRun{
		t:       t,
		path:    &fakeDatapath{effect: effect, failure: make(chan error, 1), errSet: make(chan error, 100)},
		signals: make(chan os.Signal),
		keys:    keys,
		code:    make(chan int, 1),
	}
	host := fakeHost()
	host.Stdin = keyboard
	host.Start = func(o loader.Options) (Datapath, error) {
		r.path.options = o
		return r.path, nil
	}
	host.TakeBack = func(string, *slog.Logger) (bool, error) {
		r.taken++
		return r.failure == nil, r.failure
	}
	host.TrialSignals = func() (<-chan os.Signal, func()) { return r.signals, func() {} }
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r.cancel = cancel
	go func() {
		r.code <- run(ctx, append([]string{"try", "--listen", ""}, args...), &r.stdout, &r.stderr, host)
	}()
	for !strings.Contains(r.stdout.String(), "on trial") {
		text, more := r.stdout.Next()
		if strings.Contains(text, "on trial") {
			break
		}
		await.Receive(t, more)
	}
	return r
}

// end waits for the end and compares what became of the trial.
func (r *trialRun) end(code, kept, taken int, says string) {
	r.t.Helper()
	await.Same(r.t, "exit code", code, await.Receive(r.t, r.code))
	if r.path.kept != kept || r.taken != taken || r.path.closed != 1 {
		r.t.Errorf("kept %d, taken back %d, closed %d times", r.path.kept, r.taken, r.path.closed)
	}
	await.Same(r.t, "times counted down", 1, r.path.counts)
	await.Says(r.t, "the trial", r.stdout.String()+r.stderr.String(), says)
}

func TestTryTakenBack(t *testing.T) {
	for name, test := range map[string]struct {
		happens func(*trialRun)
		says    string
	}{
		"SIGINT":           {func(r *trialRun) { r.signals <- unix.SIGINT }, "ended by a signal (interrupt): everything is as it was"},
		"terminal gone":    {func(r *trialRun) { r.signals <- unix.SIGHUP }, "ended by a signal (hangup)"},
		"time":             {func(*trialRun) {}, "not confirmed within 1s: everything is as it was before"},
		"failure":          {func(r *trialRun) { r.path.failure <- errors.New("netlink is gone") }, "netlink is gone"},
		"context":          {func(r *trialRun) { r.cancel() }, "canceled"},
		"end of the input": {func(r *trialRun) { r.keys.Close() }, "not confirmed within 1s"},
		"half a line":      {func(r *trialRun) { _, _ = r.keys.Write([]byte("y")); r.keys.Close() }, "not confirmed within 1s"},
		"cannot be undone": {func(r *trialRun) { r.failure = errors.New("no memory"); r.signals <- unix.SIGTERM }, "failed, use replypath detach: no memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startTrial(t, "--config", writeConfig(t, ""), "--timeout", "1s")
			test.happens(r)
			r.end(cli.ExitFailed, 0, 1, test.says)
		})
	}
}

// --observe wins over what try is for; an interface's own mode over both defaults.
func TestTryModes(t *testing.T) {
	path := writeConfig(t, "mode: observe\ninterfaces: [{name: eth0, mode: observe}, {name: eth1}]\n")
	r := startTrial(t, "--config", path)
	r.signals <- unix.SIGUSR1
	r.end(cli.ExitDone, 1, 0, "kept")
	if c := r.path.options.Config; c.Mode != config.ModeEnforce || c.Interfaces[0].Mode != config.ModeObserve || c.Interfaces[1].Mode != "" {
		t.Errorf("configuration %+v", c)
	}
	r = startTrial(t, "--config", path, "--observe")
	r.signals <- unix.SIGUSR1
	r.end(cli.ExitDone, 1, 0, "kept")
	await.Same(t, "mode", config.ModeObserve, r.path.options.Config.Mode)
}

// TestTryFits: on a narrow terminal there are more lines, and the commands stay whole.
func TestTryFits(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	long := []string{"enp130s0f0np100", "enp130s0f1np100", "enp130s0f2np100", "enp130s0f3np100"} // as IFNAMSIZ allows
	wantSaid(t, status.Effect{Mode: "enforce", Corrected: long[:2], Observed: long[2:]},
		`on trial: replies are corrected on enp130s0f0np100, enp130s0f1np100, and only
observed on enp130s0f2np100, enp130s0f3np100
press Enter within 2m0s to keep it, or run:
  replypath try confirm
kept: replies are corrected on enp130s0f0np100, enp130s0f1np100, and only
observed on enp130s0f2np100, enp130s0f3np100, without a process
to take it over and keep watch, run:
  replypath run
`)
}

// wantSaid confirms a trial, and compares all that it says.
func wantSaid(t *testing.T, effect status.Effect, want string) {
	t.Helper()
	r := startTrialOn(t, effect, "--config", writeConfig(t, ""))
	r.signals <- unix.SIGUSR1
	r.end(cli.ExitDone, 1, 0, "kept")
	await.Same(t, "said", want, r.stdout.String())
}
