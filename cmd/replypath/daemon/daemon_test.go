// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/loader"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/status"
	"replypath/metrics"
	"replypath/test/await"
)

// patience is how long a test waits for what has to come.
const patience = 10 * time.Second

// fakeDatapath notes what the daemon does with it.
type fakeDatapath struct {
	options loader.Options
	effect  status.Effect
	failure chan error // makes Run return
	errSet  chan error // every SetError

	mu       sync.Mutex
	reloaded []*config.Config
	refusal  error // of the next Reload
	reported []error
	counts   int // of CountDown
	kept     int
	closed   int
}

func (d *fakeDatapath) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.failure:
		return err
	}
}

func (d *fakeDatapath) Reload(cfg *config.Config) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reloaded = append(d.reloaded, cfg)
	return d.refusal
}

func (d *fakeDatapath) ReportConfigError(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reported = append(d.reported, err)
}

func (d *fakeDatapath) SetError(_ string, err error) {
	d.errSet <- err
}

func (d *fakeDatapath) CountDown() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts++
	return nil
}

func (d *fakeDatapath) Keep() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kept++
	return nil
}

func (d *fakeDatapath) Effect() (*status.Effect, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed > 0 {
		return nil, errors.New("the datapath is closed")
	}
	return &d.effect, nil
}

func (d *fakeDatapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed++
	return nil
}

func (*fakeDatapath) Snapshot() (metrics.Samples, error) {
	return metrics.Samples{{Of: counters.Mode, Value: 1, Labels: []string{"enforce"}}}, nil
}
func (*fakeDatapath) Lacking() ([]string, error) { return nil, nil }
func (*fakeDatapath) Passed() time.Time          { return time.Now() }

// daemonRun is a running `replypath run`.
type daemonRun struct {
	t       *testing.T
	path    *fakeDatapath
	hangups chan os.Signal
	ends    chan os.Signal
	states  chan string // sent to the service manager
	stderr  await.Log
	code    chan int
	pinDir  string // " --pin-dir" and a directory, where it is not the usual one
}

// correcting is the effect of a datapath as most are.
func correcting() status.Effect {
	return status.Effect{Mode: "enforce", Corrected: []string{"eth0", "eth1"}, Mechanisms: []string{"tcx"}}
}

// startDaemon runs `replypath run` until it is ready.
func startDaemon(t *testing.T, args ...string) *daemonRun {
	t.Helper()
	return startDaemonOn(t, correcting(), args...)
}

// startDaemonOn is startDaemon with what the datapath does.
func startDaemonOn(t *testing.T, effect status.Effect, args ...string) *daemonRun {
	t.Helper()
	r := &daemonRun{
		t:       t,
		path:    &fakeDatapath{effect: effect, failure: make(chan error, 1), errSet: make(chan error, 100)},
		hangups: make(chan os.Signal),
		ends:    make(chan os.Signal),
		states:  make(chan string, 100),
		code:    make(chan int, 1),
	}
	if i := slices.Index(args, "--pin-dir"); i >= 0 {
		r.pinDir = " --pin-dir " + args[i+1]
	}
	host := fakeHost()
	host.Start = func(o loader.Options) (Datapath, error) {
		r.path.options = o
		return r.path, nil
	}
	host.Signals = func() (reload, end <-chan os.Signal, stop func()) { return r.hangups, r.ends, func() {} }
	host.Notify = func(state string) error {
		r.states <- state
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() { r.code <- run(ctx, append([]string{"run"}, args...), nil, &r.stderr, host) }()
	r.wantState("READY=1")
	return r
}

func (r *daemonRun) wantState(want string) {
	r.t.Helper()
	if got := await.Receive(r.t, r.states); !strings.HasPrefix(got, want) {
		r.t.Fatalf("the service manager is told %q, not %q; log:\n%s", got, want, r.stderr.String())
	}
}

func (r *daemonRun) send(to chan<- os.Signal, signal os.Signal) {
	r.t.Helper()
	select {
	case to <- signal:
	case <-time.After(patience):
		r.t.Fatal("nobody takes the signal")
	}
}

// reload sends SIGHUP and waits until it has been dealt with.
func (r *daemonRun) reload() {
	r.t.Helper()
	r.send(r.hangups, unix.SIGHUP)
	r.wantState("RELOADING=1\nMONOTONIC_USEC=")
	r.wantState("READY=1")
}

// end sends SIGTERM and checks that the datapath is left in place.
func (r *daemonRun) end() {
	r.t.Helper()
	r.send(r.ends, unix.SIGTERM)
	r.wantState("STOPPING=1")
	if code := await.Receive(r.t, r.code); code != cli.ExitDone {
		r.t.Errorf("exit code %d; log:\n%s", code, r.stderr.String())
	}
	await.Same(r.t, "times closed", 1, r.path.closed)
	if effect := &r.path.effect; len(effect.Corrected) == 2 && !effect.Detaching {
		r.wantLog("replies are still corrected on eth0, eth1; `replypath detach" + r.pinDir + "` ends that")
	}
}

// TestReadyNames: the line `ready` names mode, interfaces, mechanism and host changes.
func TestReadyNames(t *testing.T) {
	effect := status.Effect{
		Mode: "enforce", Corrected: []string{"eth0"}, Observed: []string{"eth1"}, Mechanisms: []string{"tcx", "clsact"},
		HostChanges: []status.HostChange{{Object: "sysctl net.ipv4.conf.eth0.rp_filter", Before: "1", After: "2"}},
	}
	for format, want := range map[string]string{
		"json": `"mode":"enforce","interfaces":["eth0","eth1"],"observed":["eth1"],"mechanism":"tcx, clsact",` +
			`"host_changes":["sysctl net.ipv4.conf.eth0.rp_filter: 1 -> 2"]}`,
		"text": `mode=enforce interfaces="eth0, eth1" observed=eth1 mechanism="tcx, clsact" ` +
			`host_changes="sysctl net.ipv4.conf.eth0.rp_filter: 1 -> 2"`,
	} {
		r := startDaemonOn(t, effect, "--config", writeConfig(t, "log: {format: "+format+"}\n"), "--listen", "")
		r.wantLog(want)
		r.end()
	}
	r := startDaemonOn(t, status.Effect{Mode: "observe"}, "--config", writeConfig(t, "log: {format: json}\n"), "--listen", "")
	r.wantLog(`"mode":"observe","interfaces":[],"observed":[],"mechanism":"","host_changes":[]}`)
	r.end()
}

// wantLog waits for a text on standard error.
func (r *daemonRun) wantLog(want string) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		log, more := r.stderr.Next()
		if strings.Contains(log, want) {
			return
		}
		select {
		case <-more:
		case <-deadline:
			r.t.Fatalf("the log does not say %q:\n%s", want, log)
		}
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "replypath.yaml")
	rewriteConfig(t, path, text)
	return path
}

func rewriteConfig(t *testing.T, path, text string) {
	t.Helper()
	await.Must(t, os.WriteFile(path, []byte(text), 0o600))
}

// TestEndBeforeReload: of a reload and an end that both came while the daemon was starting, only the end is obeyed.
func TestEndBeforeReload(t *testing.T) {
	host := fakeHost()
	path := &fakeDatapath{errSet: make(chan error, 100)}
	hangups, ends := make(chan os.Signal, 1), make(chan os.Signal, 1)
	host.Signals = func() (reload, end <-chan os.Signal, stop func()) { return hangups, ends, func() {} }
	host.Start = func(loader.Options) (Datapath, error) {
		hangups <- unix.SIGHUP
		ends <- unix.SIGTERM
		return path, nil
	}
	args := []string{"run", "--config", writeConfig(t, ""), "--listen", ""}
	for range 20 { // a choice by chance would be right in half of them
		var stderr await.Log
		if code := run(t.Context(), args, nil, &stderr, host); code != cli.ExitDone {
			t.Fatalf("exit code %d: %s", code, stderr.String())
		}
		if len(path.reloaded) != 0 {
			t.Fatalf("reloaded %d times", len(path.reloaded))
		}
		<-hangups
	}
}

// hangUpAtEnd is `replypath run` with the signals of the host; the daemon is told to end as soon as it is ready, and to
// reload while it ends.
func hangUpAtEnd() {
	host := fakeHost()
	host.Signals = daemonSignals
	host.Start = func(loader.Options) (Datapath, error) {
		return hangingUp{&fakeDatapath{errSet: make(chan error, 100)}}, nil
	}
	host.Notify = func(state string) error {
		if state != "READY=1" {
			return nil
		}
		return raise(unix.SIGTERM)
	}
	os.Exit(run(context.Background(), append([]string{"run"}, os.Args[1:]...), nil, os.Stderr, host))
}

// hangingUp sends SIGHUP while it is closed.
type hangingUp struct{ *fakeDatapath }

func (d hangingUp) Close() error { return errors.Join(raise(unix.SIGHUP), d.fakeDatapath.Close()) }

// raise sends this thread a signal, which has had its effect when it returns.
func raise(signal unix.Signal) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return unix.Tgkill(unix.Getpid(), unix.Gettid(), signal)
}

// TestHangUpAtEnd: a reload that comes when the daemon is ending already does not kill it.
func TestHangUpAtEnd(t *testing.T) {
	out, err := exec.Command("hang-up-at-end", "--config", writeConfig(t, ""), "--listen", "").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nothing is attached, replies leave as routed; `replypath detach`") {
		t.Errorf("it ends with %v:\n%s", err, out)
	}
}

func TestRunFails(t *testing.T) {
	r := startDaemon(t, "--config", writeConfig(t, ""), "--listen", "")
	r.path.failure <- errors.New("netlink is gone")
	await.Same(t, "exit code", cli.ExitFailed, await.Receive(t, r.code))
	r.wantLog("replypath: netlink is gone: replies are still corrected on eth0, eth1: start replypath run again\n")
}

// A default file that goes away must not turn into the defaults.
func TestReloadFileGone(t *testing.T) {
	d := &daemon{App: &cli.App{Stderr: new(await.Log)}, host: fakeHost(), fromFile: true, config: config.Default()}
	d.file = &cli.ConfigFile{Path: filepath.Join(t.TempDir(), "none.yaml"), Named: func() bool { return false }}
	path := &fakeDatapath{}
	d.datapath = path
	d.log, d.logging = newLogger(d.Stderr, config.Default().Log)
	d.reload(t.Context())
	if len(path.reloaded) != 0 || len(path.reported) != 1 || !errors.Is(path.reported[0], config.ErrInvalid) {
		t.Errorf("reloaded %v, reported %v", path.reloaded, path.reported)
	}
}

// TestWatchdog: the loop's passes tell the service manager three times as often as it wants to know, and no more.
func TestWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "90000000")
	synctest.Test(t, func(t *testing.T) {
		var told []time.Duration
		begun := time.Now()
		d := &daemon{host: fakeHost()}
		d.host.Notify = func(state string) error {
			await.Same(t, "told", "WATCHDOG=1", state)
			told = append(told, time.Since(begun))
			return nil
		}
		for passed := d.watchdog(); time.Since(begun) <= 90*time.Second; time.Sleep(250 * time.Millisecond) {
			passed()
		}
		await.Same(t, "told after", []time.Duration{0, 30 * time.Second, 60 * time.Second, 90 * time.Second}, told)
	})
	t.Setenv("WATCHDOG_USEC", "")
	if (&daemon{}).watchdog() != nil {
		t.Error("it is told without a watchdog")
	}
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hang-up-at-end": hangUpAtEnd})
}

// fakeHost is one on which nothing can be attached, and which sends no signals. It touches nothing.
func fakeHost() Host {
	return Host{
		Start:        func(loader.Options) (Datapath, error) { return nil, errors.New("nothing can be attached") },
		TakeBack:     func(string, *slog.Logger) (bool, error) { return true, nil },
		Confirm:      func(context.Context, string) error { return nil },
		EndObserver:  func(context.Context, string) (int, error) { return 0, nil },
		Signals:      func() (reload, end <-chan os.Signal, stop func()) { return nil, nil, func() {} },
		TrialSignals: func() (<-chan os.Signal, func()) { return nil, func() {} },
		Stdin:        strings.NewReader(""),
		Notify:       func(string) error { return nil },
	}
}

// run executes a command line on a host and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, host Host) int {
	a := &cli.App{Stdout: stdout, Stderr: stderr, Version: "1.2.3"}
	root := cli.NewRoot(a)
	root.AddCommand(NewRun(a, host), NewTry(a, host))
	return a.Run(ctx, root, args)
}

// TestManyHangups: however many reloads wait, the end is told, and they become one.
func TestManyHangups(t *testing.T) {
	reload, end, stop := daemonSignals()
	defer stop()
	witness := make(chan os.Signal, 1) // the kernel makes one of those that it has not delivered
	signal.Notify(witness, unix.SIGHUP, unix.SIGTERM)
	defer signal.Stop(witness)
	const hangups = 10
	for i := range hangups + 1 {
		sent := unix.SIGHUP
		if i == hangups {
			sent = unix.SIGTERM
		}
		await.Must(t, unix.Kill(unix.Getpid(), sent))
		await.Receive(t, witness)
	}
	await.Same(t, "signal", os.Signal(unix.SIGTERM), await.Receive(t, end))
	if got := await.Receive(t, reload); got != unix.SIGHUP || len(reload) != 0 {
		t.Errorf("got %v, and %d wait", got, len(reload))
	}
	t.Logf("%d hangups became one reload, and the end was told", hangups)
}
