// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// onTrial is what `replypath try` says when it can be confirmed.
const onTrial = "on trial: replies are corrected on "

// eth1RPFilter is what a trial that enforces changes on the host besides.
const eth1RPFilter = "net/ipv4/conf/eth1/rp_filter"

// tried is a server on which something is tried.
type tried struct {
	t      *testing.T
	n      *topology.TwoNIC
	p      *product.Product
	before host.Snapshot
	pins   []string
}

// newTried looks at the server as it is now.
func newTried(t *testing.T, n *topology.TwoNIC, p *product.Product) *tried {
	t.Helper()
	r := &tried{t: t, n: n, p: p}
	r.before, r.pins = r.snapshot(), r.pinned()
	return r
}

// newStrict is a server without anything, which drops questions by eth1 itself until replypath enforces.
func newStrict(t *testing.T) *tried {
	t.Helper()
	n, p := server.New(t)
	await.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
	return newTried(t, n, p)
}

func (r *tried) snapshot() host.Snapshot {
	r.t.Helper()
	return host.TakeSnapshot(r.t, r.n.Server.Host, "eth0", "eth1")
}

// pinned lists the pins of the datapath.
func (r *tried) pinned() (found []string) {
	r.t.Helper()
	for _, path := range host.Pins(r.t) {
		if strings.HasPrefix(path, r.p.PinDir) {
			found = append(found, path)
		}
	}
	return found
}

// try starts `replypath try` with something to read.
func (r *tried) try(stdin io.Reader, args ...string) *product.Program {
	r.t.Helper()
	c := r.p.Command(r.t.Context(), append([]string{"try"}, args...)...)
	c.Stdin = stdin
	return product.StartProgram(r.t, c, unix.SIGKILL)
}

// begin starts it, and returns when there is something to be confirmed.
func (r *tried) begin(args ...string) *product.Program {
	r.t.Helper()
	try := r.try(nil, args...)
	try.WaitLog(1, "on trial: replies are ")
	return try
}

// wantBy asks the server's eth1 and wants all answers by it, or by eth0.
func (r *tried) wantBy(eth1 bool) {
	r.t.Helper()
	for _, f := range r.n.Families() {
		c := traffic.NewConversation(r.t, traffic.TCP, r.n.ClientEth0, r.n.Server.Eth1.Address(f))
		wire.WantBy(r.t, r.n.Server, c, eth1)
	}
}

// wantBack wants the server to be as it was before, or to get so by itself, and returns how long that took at most.
func (r *tried) wantBack() time.Duration {
	r.t.Helper()
	begun := time.Now()
	await.Becomes(r.t, "pins", r.pins, r.pinned)
	took := time.Since(begun).Truncate(time.Millisecond) + time.Millisecond
	await.Same(r.t, "host after the trial", r.before, r.snapshot())
	return took
}

// newKeyboard makes what a program reads from, and what writes to that.
func newKeyboard(t *testing.T) (keyboard, keys *os.File) {
	t.Helper()
	keyboard, keys, err := os.Pipe()
	await.Must(t, err)
	t.Cleanup(func() { keyboard.Close() })
	t.Cleanup(func() { keys.Close() })
	return keyboard, keys
}

// TestTryConfirmed keeps what is on trial: by Enter, by the command for scripts, and
// by the signal. The next daemon takes it over.
func TestTryConfirmed(t *testing.T) {
	n, p := server.New(t)
	r := newTried(t, n, p)
	for name, confirm := range map[string]func(try *product.Program, keyboard io.Writer){
		"enter": func(_ *product.Program, keyboard io.Writer) { _, _ = keyboard.Write([]byte("\n")) },
		"command": func(*product.Program, io.Writer) {
			until := p.Status().TrialUntil
			p.Expect(0, "try", "confirm")
			await.Becomes(t, "the time of the trial is over", true, func() bool { return time.Since(*until) >= time.Second })
		},
		"signal": func(try *product.Program, _ io.Writer) { try.Signal(unix.SIGUSR1) },
	} {
		t.Run(name, func(t *testing.T) {
			r.wantBy(false)
			keyboard, keys := newKeyboard(t)
			try := r.try(keyboard, "--config", product.WriteConfig(t, "mode: observe\n"), "--timeout", "5s")
			try.WaitLog(1, onTrial)
			confirm(try, keys)
			try.WantEnd(0)
			r.wantBy(true)
			p.Expect(1, "try", "confirm") // nothing is on trial any more
			for _, f := range p.Examine().Of("configuration", "") {
				if strings.Contains(f.Found, "changed") {
					t.Errorf("nobody has changed the configuration of the trial: %+v", f)
				}
			}
			p.Start().Stop(unix.SIGTERM)
			r.wantBy(true)
			p.Detach()
			r.wantBack()
			t.Logf("confirmed by %s: kept after its end and by the next daemon; 0 differences after detach", name)
		})
	}
}

// endings are ways in which a process ends its trial without a confirmation.
var endings = map[string]func(try *product.Program){
	"time":        func(*product.Program) {},
	"interrupted": func(try *product.Program) { try.Signal(unix.SIGINT) },
	"hung up":     func(try *product.Program) { try.Signal(unix.SIGHUP) },
	"terminated":  func(try *product.Program) { try.Signal(unix.SIGTERM) },
}

// TestTryTakenBack tries on a server without anything, and wants nothing left of it whatever ends the trial.
func TestTryTakenBack(t *testing.T) {
	for name, end := range endings {
		if short.Run(t) && name != "time" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newStrict(t)
			try := r.begin("--timeout", "3s")
			r.wantBy(true)
			end(try)
			if code := try.WaitEnd(); code == 0 {
				t.Errorf("exit code 0:\n%s", try.Log)
			}
			t.Logf("%s: host and pins are as before within %s of the end of the process, 0 differences", name, r.wantBack())
		})
	}
}

// takers are what takes back a trial that nobody is left to take back, and what they say, beside run and try.
var takers = map[string]struct {
	command []string
	says    string
}{
	"confirm": {[]string{"try", "confirm"}, "it came too late: everything was taken back"},
	"mode":    {[]string{"mode", "enforce"}, "a trial was not confirmed, it is taken back"},
}

// outlive kills a process that tries, or stops it, and waits until its time is over: the programs observe by themselves.
func (r *tried) outlive(try *product.Program, by unix.Signal) {
	r.t.Helper()
	if until := r.p.Status().TrialUntil; until == nil || time.Until(*until) <= 0 {
		r.t.Errorf("on trial until %v", until)
	}
	try.Signal(by)
	await.Eventually(r.t, "the trial is over", func() error {
		if s := r.p.Status(); s.TrialUntil != nil || s.Mode != "observe" {
			return fmt.Errorf("mode %s, on trial until %v", s.Mode, s.TrialUntil)
		}
		return nil
	})
	r.wantBy(false)
	if text := r.p.Expect(3, "status").Stdout; !strings.HasPrefix(text, "failed: the trial is over") || strings.Contains(text, "on trial") {
		r.t.Errorf("the status of a trial that is over:\n%s", text)
	}
	if by == unix.SIGSTOP {
		try.Signal(unix.SIGKILL)
	}
	try.WaitEnd()
}

// TestTryOutlived kills the process that tries, and stops it. Nobody is left to take anything back. Replies are moved until
// the time is over, and go as routed from then on. The next command takes back the rest, and says so.
func TestTryOutlived(t *testing.T) {
	for name, by := range map[string]unix.Signal{"confirm": unix.SIGKILL, "mode": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newStrict(t)
			try := r.begin("--timeout", "3s")
			r.wantBy(true)
			r.outlive(try, by)
			taker := takers[name]
			result := r.p.Expect(1, taker.command...) // nothing was there before
			await.Says(t, taker.command[0], result.Stderr, taker.says)
			t.Logf("after %s: by eth0 from the end of the trial on, all is back within %s of %q", by, r.wantBack(), taker.command)
		})
	}
}

// TestTryKilledWhileStarting kills the process that tries before anything is on trial: with nothing but its journal pinned,
// and with all attached. TestKilledStartIsDetached of package loader does it at each step of a start.
func TestTryKilledWhileStarting(t *testing.T) {
	t.Parallel()
	r := newStrict(t)
	for _, pinned := range []string{"journal", "maps"} {
		try := r.try(nil)
		await.Eventually(t, pinned, func() error {
			_, err := os.Stat(filepath.Join(r.p.PinDir, pinned))
			return err
		})
		try.Signal(unix.SIGKILL)
		try.WaitEnd()
		r.p.Detach()
		r.wantBack()
	}
}

// TestTryRestores tries in the place of a datapath in mode observe, whose daemon has ended, with other interfaces: it
// is back afterwards, with its programs, flows and counters.
func TestTryRestores(t *testing.T) {
	// Other endings differ in who puts it back, not in what.
	for _, name := range []string{"time", "confirm"} {
		if short.Run(t) && name != "confirm" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, p := server.New(t)
			d := p.Start("--observe")
			newTried(t, n, p).wantBy(false)
			before := p.Metrics()
			d.Kill()
			r := newTried(t, n, p)
			flows := p.Status().Flows.Count
			try := r.begin("--timeout", "3s", "--interface", "eth0", "--interface", "eth1")
			r.wantBy(true)
			if name == "confirm" {
				r.outlive(try, unix.SIGKILL)
				p.Expect(1, "try", "confirm")
			} else if code := try.WaitEnd(); code == 0 {
				t.Errorf("exit code 0:\n%s", try.Log)
			}
			took := r.wantBack()
			s := p.Status()
			if s.Mode != "observe" || s.Flows.Count < flows || flows == 0 {
				t.Errorf("mode %s, %d flows, before %d", s.Mode, s.Flows.Count, flows)
			}
			r.wantBy(false)
			p.Start("--observe")
			went := before.Backwards(p.Metrics())
			if len(went) > 0 {
				t.Errorf("counters went backwards: %q", went)
			}
			t.Logf("%s: mode %s is back within %s of the end of the process, %d flows, before %d, 0 differences, %d counters went backwards",
				name, s.Mode, took, s.Flows.Count, flows, len(went))
		})
	}
}

// isNoQdisc tells a change from what observing needs as well, where there is no TCX.
func isNoQdisc(c product.HostChange) bool { return !strings.HasPrefix(c.Object, "qdisc ") }

// TestTryBesideRun takes over from a daemon that only observes, and goes back to observing; beside one that enforces it is refused,
// and changes nothing.
func TestTryBesideRun(t *testing.T) {
	n, p := server.New(t)
	d := p.Start()
	result := p.Expect(1, "try")
	await.Says(t, "the second", result.Stderr, fmt.Sprintf("pid %d: end it first", d.PID()))
	p.Expect(1, "try", "confirm")
	p.Expect(0, "detach", "--stop")

	d = p.Start("--observe")
	r := newTried(t, n, p)
	r.wantBy(false)
	short := r.begin()
	d.WaitEnd()
	r.wantBy(true)
	short.Signal(unix.SIGINT)
	short.WantEnd(1)
	r.wantBack()
	r.wantBy(false)
	if s := p.Status(); s.Mode != "observe" || s.Daemon.Running {
		t.Errorf("mode %s, daemon %+v", s.Mode, s.Daemon)
	}
	try := r.begin()
	refused := []string{"run", "try", "detach"}
	for _, command := range refused {
		await.Says(t, command+" beside a trial", p.Expect(1, command).Stderr, fmt.Sprint(try.PID()))
	}
	p.Expect(0, "detach", "--stop")
	try.WantEnd(1)
	p.Expect(3, "status")
	t.Logf("try beside a daemon, and %q beside a trial: %d refused, each names the other, 0 differences", refused, 1+len(refused))
}

// TestTryLeft starts a daemon where a trial was left before its time was over: the daemon takes it back first.
func TestTryLeft(t *testing.T) {
	r := newStrict(t)
	p := r.p
	try := r.begin()
	try.Signal(unix.SIGKILL)
	try.WaitEnd()
	r.wantBy(true)
	d := p.Start("--interface", "eth0", "--observe")
	d.WaitLog(1, "a trial was not confirmed, it is taken back")
	if s := p.Status(); len(s.Interfaces) != 1 || slices.ContainsFunc(s.HostChanges, isNoQdisc) {
		t.Errorf("interfaces %+v, changes %+v", s.Interfaces, s.HostChanges)
	}
	d.Stop(unix.SIGTERM)
	p.Detach()
	r.wantBack()
	if _, err := os.Stat(p.PinDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin directory: %v", err)
	}
	t.Log("process killed: taken back by the next daemon, 0 differences after detach")
}
