// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// onTrial is what `replypath try` says when it can be confirmed.
const onTrial = "on trial: replies are corrected on "

// tried is a server on which something is tried.
type tried struct {
	t      *testing.T
	n      *topology.TwoNIC
	p      *harness.Product
	before harness.Snapshot
	pins   []string
}

// newTried looks at the server as it is now.
func newTried(t *testing.T, n *topology.TwoNIC, p *harness.Product) *tried {
	t.Helper()
	return &tried{t: t, n: n, p: p, before: harness.TakeSnapshot(t, n.Server.Host, "eth0", "eth1"), pins: pinsOf(t, p)}
}

// pinsOf lists the pins of one datapath.
func pinsOf(t *testing.T, p *harness.Product) []string {
	t.Helper()
	var found []string
	for _, path := range harness.Pins(t) {
		if strings.HasPrefix(path, p.PinDir) {
			found = append(found, path)
		}
	}
	return found
}

// try starts `replypath try` with something to read.
func (r *tried) try(stdin io.Reader, args ...string) *harness.Program {
	r.t.Helper()
	c := r.p.Command(r.t.Context(), append([]string{"try"}, args...)...)
	c.Stdin = stdin
	return harness.StartProgram(r.t, c, unix.SIGKILL)
}

// wantBy asks the server's eth1 and wants all answers by it, or by eth0.
func (r *tried) wantBy(eth1 bool) {
	r.t.Helper()
	for _, f := range r.n.Families() {
		c := harness.NewConversation(r.t, harness.TCP, r.n.ClientEth0, r.n.Server.Eth1.Address(f))
		harness.WantBy(r.t, r.n.Server, c, eth1)
	}
}

// wantBack wants the server to be as it was before, or to get so by itself, and returns
// how long that took at most.
func (r *tried) wantBack() time.Duration {
	r.t.Helper()
	begun := time.Now()
	harness.Eventually(r.t, "everything is taken back", func() error {
		if diff := cmp.Diff(r.pins, pinsOf(r.t, r.p)); diff != "" {
			return fmt.Errorf("pins (-before +after):\n%s", diff)
		}
		return nil
	})
	took := time.Since(begun).Truncate(time.Millisecond) + time.Millisecond
	if diff := r.before.Diff(harness.TakeSnapshot(r.t, r.n.Server.Host, "eth0", "eth1")); diff != "" {
		r.t.Errorf("host after the trial (-before +after):\n%s", diff)
	}
	return took
}

// TestTryConfirmed keeps what is on trial: by Enter, by the command for scripts, and
// by the signal. The next daemon takes it over.
func TestTryConfirmed(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	r := newTried(t, n, p)
	for name, confirm := range map[string]func(try *harness.Program, keyboard io.Writer){
		"enter":   func(_ *harness.Program, keyboard io.Writer) { _, _ = keyboard.Write([]byte("\n")) },
		"command": func(*harness.Program, io.Writer) { p.Expect(0, "try", "confirm") },
		"signal":  func(try *harness.Program, _ io.Writer) { try.Signal(unix.SIGUSR1) },
	} {
		t.Run(name, func(t *testing.T) {
			r.wantBy(false)
			keyboard, keys := newKeyboard(t)
			try := r.try(keyboard, "--config", harness.WriteConfig(t, "mode: observe\n"))
			try.WaitLog(1, onTrial)
			confirm(try, keys)
			if code := try.WaitEnd(); code != 0 {
				t.Errorf("exit code %d:\n%s", code, try.Log)
			}
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

// endings are ways in which a trial ends without a confirmation.
var endings = map[string]func(t *testing.T, try *harness.Program){
	"time":            func(*testing.T, *harness.Program) {},
	"interrupted":     func(_ *testing.T, try *harness.Program) { try.Signal(unix.SIGINT) },
	"hung up":         func(_ *testing.T, try *harness.Program) { try.Signal(unix.SIGHUP) },
	"killed":          func(_ *testing.T, try *harness.Program) { try.Signal(unix.SIGKILL) },
	"guardian killed": func(t *testing.T, try *harness.Program) { harness.Must(t, unix.Kill(child(t, try), unix.SIGKILL)) },
	"stopped":         func(_ *testing.T, try *harness.Program) { try.Signal(unix.SIGSTOP) },
}

// child returns the only child of a process, which one of its threads has.
func child(t *testing.T, of *harness.Program) int {
	t.Helper()
	var children string
	for _, file := range harness.Must1[[]string](t)(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", of.PID()))) {
		children += string(harness.Must1[[]byte](t)(os.ReadFile(file)))
	}
	return harness.Must1[int](t)(strconv.Atoi(strings.TrimSpace(children)))
}

// newKeyboard makes what a program reads from, and what writes to that.
func newKeyboard(t *testing.T) (keyboard, keys *os.File) {
	t.Helper()
	keyboard, keys, err := os.Pipe()
	harness.Must(t, err)
	t.Cleanup(func() { keyboard.Close() })
	t.Cleanup(func() { keys.Close() })
	return keyboard, keys
}

// TestTryTakenBack tries on a server without anything, and wants nothing left of it
// whatever ends the trial.
func TestTryTakenBack(t *testing.T) {
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newServer(t)
			harness.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
			r := newTried(t, n, harness.On(t, n.Server.Host))
			try := r.try(nil, "--timeout", "3s")
			try.WaitLog(1, onTrial)
			r.wantBy(true)
			end(t, try)
			// The guardian ends a process that hangs 10 s after its time.
			if code := try.WaitEndWithin(2 * harness.AnswerTime); code == 0 {
				t.Errorf("exit code 0:\n%s", try.Log)
			}
			t.Logf("%s: host and pins are as before within %s of the end of the process, 0 differences", name, r.wantBack())
		})
	}
}

// TestTryRestores tries in the place of a datapath in mode observe, whose daemon has
// ended, with other interfaces: it is back afterwards, with its programs, flows and
// counters.
func TestTryRestores(t *testing.T) {
	// Others differ in who notices, not in what is put back.
	for _, name := range []string{"time", "killed", "guardian killed"} {
		end := endings[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newServer(t)
			p := harness.On(t, n.Server.Host)
			d := p.Start("--observe")
			newTried(t, n, p).wantBy(false)
			before := p.Metrics()
			d.Kill()
			r := newTried(t, n, p)
			flows := p.Status().Flows.Count
			try := r.try(nil, "--timeout", "3s", "--interface", "eth0", "--interface", "eth1")
			try.WaitLog(1, onTrial)
			r.wantBy(true)
			end(t, try)
			if code := try.WaitEnd(); code == 0 {
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

// TestTryObserve tries to only observe in the place of a datapath that enforces, whose daemon has ended: all that it
// changed on the host is there again afterwards, and gone once the trial is confirmed.
func TestTryObserve(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	harness.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
	p := harness.On(t, n.Server.Host)
	untouched := harness.TakeSnapshot(t, n.Server.Host)
	p.Start().Kill()
	r := newTried(t, n, p)
	r.wantBy(true)
	changed := p.Status().HostChanges
	try := r.try(nil, "--timeout", "60s", "--observe")
	try.WaitLog(1, "on trial: replies are only observed")
	if value := harness.Must1[string](t)(n.Server.Sysctl("net/ipv4/conf/eth1/rp_filter")); value != "1" {
		t.Errorf("rp_filter of eth1 is %s while observing is tried", value)
	}
	try.Signal(unix.SIGINT)
	try.WaitEnd()
	r.wantBack()
	r.wantBy(true)
	if now := p.Status().HostChanges; !slices.Equal(now, changed) {
		t.Errorf("changed on the host are %+v, before the trial %+v", now, changed)
	}

	try = r.try(nil, "--timeout", "60s", "--observe")
	try.WaitLog(1, "on trial: replies are only observed")
	p.Expect(0, "try", "confirm")
	harness.Eventually(t, "nothing of the host is changed", func() error {
		if s := p.Status(); s.Mode != "observe" || slices.ContainsFunc(s.HostChanges, isNoQdisc) || len(s.WouldChange) == 0 {
			return fmt.Errorf("mode %s, changed %+v, would change %+v", s.Mode, s.HostChanges, s.WouldChange)
		}
		return nil
	})
	try.WaitEnd()
	p.Detach()
	if diff := untouched.Diff(harness.TakeSnapshot(t, n.Server.Host)); diff != "" {
		t.Errorf("host after detach (-before +after):\n%s", diff)
	}
}

// isNoQdisc tells a change from what observing needs as well.
func isNoQdisc(c harness.HostChange) bool { return !strings.HasPrefix(c.Object, "qdisc ") }

// TestTryRestoresBoundRoute tries a configuration without a route for sockets that are bound to eth1, in the place of
// a datapath that has one.
func TestTryRestoresBoundRoute(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	routes := func() string { return harness.Shell(t, n.Server.Host, "ip route show default dev eth1 proto 114") }
	harness.Shell(t, n.Server.Host, "ip route add 10.77.0.0/16 via "+n.Server.Eth1.Gateway(topology.IPv4).String()+" dev eth1")
	p.Start().Kill()
	r := newTried(t, n, p)
	before := routes()
	try := r.try(nil, "--timeout", "60s", "--config", harness.WriteConfig(t, "interfaces: [{name: eth0}, {name: eth1, mode: observe}]\n"))
	try.WaitLog(1, onTrial)
	if during := routes(); before == "" || during != "" {
		t.Errorf("before %q, during the trial %q", before, during)
	}
	try.Signal(unix.SIGINT)
	try.WaitEnd()
	r.wantBack()
	t.Logf("%q is back", strings.TrimSpace(before))
}

// TestTryKilledAnyTime kills the process that tries at many moments, from its start
// to its trial: every time everything is taken back.
func TestTryKilledAnyTime(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	r := newTried(t, n, harness.On(t, n.Server.Host))
	begun := time.Now()
	first := r.try(nil)
	first.WaitLog(1, onTrial)
	whole := time.Since(begun)
	first.Signal(unix.SIGTERM)
	first.WaitEnd()
	r.wantBack()
	count := max(1, times(t)/5)
	for i := range count {
		try := r.try(nil)
		// The moment is what is tested, so that there is nothing to wait for.
		time.Sleep(whole * time.Duration(i) / time.Duration(count))
		try.Signal(unix.SIGKILL)
		try.WaitEnd()
		r.wantBack()
	}
	r.wantBy(false)
	t.Logf("%d kills within %s, %d times everything taken back", count, whole.Round(time.Millisecond), count)
}

// TestTryBesideRun is refused, and changes nothing.
func TestTryBesideRun(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start("--observe")
	r := newTried(t, n, p)
	result := p.Expect(1, "try")
	if !strings.Contains(result.Stderr, fmt.Sprintf("pid %d: end it first", d.PID())) {
		t.Errorf("it does not name the daemon: %s", result)
	}
	r.wantBack()
	r.wantBy(false)
	p.Expect(1, "try", "confirm")
	d.Kill()
	try := r.try(nil)
	try.WaitLog(1, onTrial)
	refused := []string{"run", "try", "detach"}
	for _, command := range refused {
		if result := p.Expect(1, command); !strings.Contains(result.Stderr, fmt.Sprint(try.PID())) {
			t.Errorf("%s beside a trial does not name it: %s", command, result)
		}
	}
	p.Expect(0, "detach", "--stop")
	if code := try.WaitEnd(); code != 1 {
		t.Errorf("exit code %d:\n%s", code, try.Log)
	}
	p.Expect(3, "status")
	t.Logf("try beside a daemon, and %q beside a trial: %d refused, each names the other, 0 differences", refused, 1+len(refused))
}

// TestTryWithoutGuard starts a daemon where a trial ended without anybody to take it
// back: the daemon does that first.
func TestTryWithoutGuard(t *testing.T) {
	n := newServer(t)
	harness.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
	p := harness.On(t, n.Server.Host)
	r := newTried(t, n, p)
	try := r.try(nil)
	try.WaitLog(1, onTrial)
	guardian := child(t, try)
	// Stopped, neither can do anything about the other's end.
	for _, pid := range []int{try.PID(), guardian} {
		harness.Must(t, unix.Kill(pid, syscall.SIGSTOP))
	}
	harness.Must(t, unix.Kill(guardian, syscall.SIGKILL))
	try.Signal(unix.SIGKILL)
	try.WaitEnd()
	r.wantBy(true)
	d := p.Start("--interface", "eth0", "--observe")
	d.WaitLog(1, "a trial was not confirmed, it is taken back")
	s := p.Status()
	changes := slices.DeleteFunc(s.HostChanges, func(c harness.HostChange) bool {
		return c.Object == "qdisc clsact on eth0" // its own, where there is no TCX
	})
	if len(s.Interfaces) != 1 || len(changes) != 0 {
		t.Errorf("interfaces %+v, changes %+v", s.Interfaces, changes)
	}
	d.Stop(unix.SIGTERM)
	p.Detach()
	r.wantBack()
	if _, err := os.Stat(p.PinDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin directory: %v", err)
	}
	t.Log("process and guardian killed: taken back by the next daemon, 0 differences after detach")
}
