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
	"testing/synctest"
	"time"

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
	lost    chan struct{}
	begins  []int // what was counted down each time that the guardian is told of the begin
	keys    *io.PipeWriter
	cancel  context.CancelFunc
	taken   int   // times that it was taken back
	failure error // of taking it back
	stdout  lockedBuffer
	stderr  lockedBuffer
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
		lost:    make(chan struct{}),
		keys:    keys,
		code:    make(chan int, 1),
	}
	host := fakeHost()
	host.Stdin = keyboard
	host.Guard = func(string, time.Duration) (*Guardian, error) { return &Guardian{r.lost, r.begun}, nil }
	host.Start = func(o loader.Options) (Datapath, error) {
		r.path.options = o
		return r.path, nil
	}
	host.TakeBack = func(string, int, *slog.Logger) (bool, error) {
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
		text, more := r.stdout.next()
		if strings.Contains(text, "on trial") {
			break
		}
		receive(t, more)
	}
	return r
}

// begun notes whether the trial has begun when the guardian is told so.
func (r *trialRun) begun() error {
	r.begins = append(r.begins, r.path.counts)
	return nil
}

// end waits for the end and compares what became of the trial.
func (r *trialRun) end(code, kept, taken int, says string) {
	r.t.Helper()
	if got := receive(r.t, r.code); got != code {
		r.t.Errorf("exit code %d, not %d", got, code)
	}
	if r.path.kept != kept || r.taken != taken || r.path.closed != 1 {
		r.t.Errorf("kept %d, taken back %d, closed %d times", r.path.kept, r.taken, r.path.closed)
	}
	if len(r.begins) != 1 || r.begins[0] != 1 {
		r.t.Errorf("told the guardian of the begin, after that many of the datapath: %v", r.begins)
	}
	if text := r.stdout.String() + r.stderr.String(); !strings.Contains(text, says) {
		r.t.Errorf("it does not say %q:\n%s", says, text)
	}
}

func TestTryConfirmed(t *testing.T) {
	for name, confirm := range map[string]func(*trialRun){
		"enter":   func(r *trialRun) { _, _ = r.keys.Write([]byte("\n")) },
		"SIGUSR1": func(r *trialRun) { r.signals <- unix.SIGUSR1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := startTrial(t, "--config", writeConfig(t, "mode: observe\n"), "--timeout", "1h")
			confirm(r)
			r.end(cli.ExitDone, 1, 0, "kept: replies are corrected on eth0, eth1, without a process")
			if o := r.path.options; o.Trial != time.Hour || o.Config.Mode != config.ModeEnforce {
				t.Errorf("started with trial %s, mode %s", o.Trial, o.Config.Mode)
			}
		})
	}
}

func TestTryTakenBack(t *testing.T) {
	for name, test := range map[string]struct {
		happens func(*trialRun)
		says    string
	}{
		"SIGINT":           {func(r *trialRun) { r.signals <- unix.SIGINT }, "ended by a signal (interrupt): everything is as it was"},
		"terminal gone":    {func(r *trialRun) { r.signals <- unix.SIGHUP }, "ended by a signal (hangup)"},
		"time":             {func(*trialRun) {}, "not confirmed within 1s: everything is as it was before"},
		"guardian":         {func(r *trialRun) { close(r.lost) }, "watched over it has ended"},
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
	if c := r.path.options.Config; c.Mode != config.ModeObserve {
		t.Errorf("configuration %+v", c)
	}
}

// TestTrySays: what is on trial follows from hooks and modes.
func TestTrySays(t *testing.T) {
	t.Setenv("COLUMNS", "200")
	for says, effect := range map[string]status.Effect{
		"replies are corrected on eth0, eth1":                      correcting(),
		"replies are only observed on eth0, they leave as routed":  {Mode: "enforce", Observed: []string{"eth0"}},
		"nothing is attached, replies leave as routed":             {Mode: "enforce"},
		"replies are corrected on eth0, and only observed on eth1": {Mode: "enforce", Corrected: []string{"eth0"}, Observed: []string{"eth1"}},
	} {
		wantSaid(t, effect, "on trial: "+says+`
press Enter within 2m0s to keep it, or run:
  replypath try confirm
kept: `+says+`, without a process
to take it over and keep watch, run:
  replypath run
`)
	}
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

// TestTryMuteGuardian: a guardian that cannot be told of the begin would end the trial too early.
func TestTryMuteGuardian(t *testing.T) {
	host := fakeHost()
	host.Guard = func(string, time.Duration) (*Guardian, error) {
		return &Guardian{Begun: func() error { return unix.EPIPE }}, nil
	}
	path, taken := &fakeDatapath{}, 0
	host.Start = func(loader.Options) (Datapath, error) { return path, nil }
	host.TakeBack = func(string, int, *slog.Logger) (bool, error) { taken++; return true, nil }
	var stderr lockedBuffer
	code := run(t.Context(), []string{"try", "--config", writeConfig(t, ""), "--listen", ""}, nil, &stderr, host)
	const want = "watched over it has ended: broken pipe: everything is as it was before"
	if code != cli.ExitFailed || taken != 1 || path.closed != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("exit code %d, taken back %d, closed %d times:\n%s", code, taken, path.closed, stderr.String())
	}
}

// TestGuardianInsists: taking a trial back is tried again where it fails, but not for ever, and counts as done where it
// failed only in the end.
func TestGuardianInsists(t *testing.T) {
	for _, test := range []struct {
		failures int
		half     bool // the first of them has done everything
		done     bool
	}{
		{0, false, true}, {1, false, true}, {1, true, true},
		{guardianAttempts - 1, false, true}, {guardianAttempts, false, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			failures, tries, begin := test.failures, 0, time.Now()
			host := fakeHost()
			host.TakeBack = func(string, int, *slog.Logger) (bool, error) {
				if tries++; tries <= failures {
					return test.half, unix.EINTR
				}
				return !test.half, nil
			}
			done, err := host.insistOnTakingBack("", 1, slog.New(slog.DiscardHandler))
			want := min(failures+1, guardianAttempts)
			took := time.Since(begin)
			t.Logf("%d failures: %d tries within %s, taken back: %t", failures, tries, took, done)
			if tries != want || done != test.done || (err == nil) != test.done || took != time.Duration(want-1)*guardianPause {
				t.Errorf("want %d tries, taken back: %t; %v", want, test.done, err)
			}
		})
	}
}

// TestGuardianWaits: the guardian gives the trial its whole time after a start that takes longer than that, and ends
// what hangs before or after.
func TestGuardianWaits(t *testing.T) {
	const timeout, never, lastMoment = time.Second, 24 * time.Hour, time.Minute + time.Second + guardianSlack - 1
	for name, test := range map[string]struct {
		begins, ends time.Duration // when they do
		inTime       bool
		after        time.Duration
	}{
		"slow start":         {begins: time.Minute, ends: lastMoment, inTime: true, after: lastMoment},
		"failed start":       {begins: never, ends: time.Minute, inTime: true, after: time.Minute},
		"start that hangs":   {begins: never, ends: never, after: startLimit},
		"trial that hangs":   {begins: time.Minute, ends: never, after: time.Minute + timeout + guardianSlack},
		"killed at once":     {begins: never, ends: 0, inTime: true, after: 0},
		"confirmed in time":  {begins: time.Millisecond, ends: timeout, inTime: true, after: timeout},
		"slower than allows": {begins: startLimit + 1, ends: never, after: startLimit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, ended, begin := make(chan struct{}), make(chan error, 1), time.Now()
				defer time.AfterFunc(test.begins, func() { close(begun) }).Stop()
				defer time.AfterFunc(test.ends, func() { ended <- nil }).Stop()
				inTime, err := awaitTrial(ended, begun, timeout)
				if took := time.Since(begin); err != nil || inTime != test.inTime || took != test.after {
					t.Errorf("in time: %t after %s, %v; not %t after %s", inTime, took, err, test.inTime, test.after)
				}
				t.Logf("a trial of %s, ended by itself: %t, after %s", timeout, inTime, time.Since(begin))
			})
		})
	}
}
