// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/restarts/builds"
	"replypath/test/topology"
)

// clsact attaches the way that kernels without TCX need.
var clsact = []string{"--mechanism", "clsact"}

// TestEndAndUpgrade ends the daemon by SIGTERM, as a service manager restarts it, and SIGKILL in
// turn, and starts in turn the same build, one with other programs, that one again, and the first.
// Either ending comes before every kind of start, as those are three.
func TestEndAndUpgrade(t *testing.T) { testAgain(t, times(t)) }

// TestEndAndUpgradeByClsact is the same, half as often, where the programs are attached the other way.
func TestEndAndUpgradeByClsact(t *testing.T) { testAgain(t, max(1, times(t)/2), clsact...) }

// ending is a way in which a daemon ends, and what that is called.
type ending struct {
	what string
	end  func(*harness.Daemon)
}

// waysToEnd are those of the daemon, in turn.
var waysToEnd = []ending{
	{"stops", func(d *harness.Daemon) { d.Stop(unix.SIGTERM) }}, {"kills", (*harness.Daemon).Kill},
}

// testAgain ends the daemon in both ways in turn, and starts the same build again, then
// another one, then the first, under load, so many times each. No connection may break, no
// datagram may be lost, no reply may leave by eth0, no counter may go backwards.
func testAgain(t *testing.T, count int, args ...string) {
	t.Parallel()
	usual, other, version := harness.Binary(), binaryOf(t, &builds.OtherPrograms), harness.Version(t)
	starts := []struct{ binary, version string }{
		{usual, version},
		{other, version + "-" + builds.OtherPrograms.Name},
		{usual, version},
	}
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	l := startLoad(t, n)
	l.wantAstray()
	var d *harness.Daemon
	// Without TCX what is sent in the moment that an interface gets its qdisc is lost.
	l.withoutDatagrams(func() { d = startBuild(p, usual, args...) })
	l.allGoOn()
	l.forget(topology.Any)
	var slowest time.Duration
	backwards := 0
	done := make([]int, len(waysToEnd))
	for i := range count * len(starts) {
		before, start := p.Metrics(), starts[i%len(starts)]
		waysToEnd[i%len(waysToEnd)].end(d)
		done[i%len(waysToEnd)]++
		d = startBuild(p, start.binary, args...)
		slowest = max(slowest, d.ReadyAfter)
		after := p.Metrics()
		if after.Sum("replypath_build_info", "version="+start.version) != 1 {
			t.Errorf("start %d: the daemon is not of version %s", i, start.version)
		}
		if went := before.Backwards(after); len(went) > 0 {
			backwards += len(went)
			t.Errorf("after start %d, counters went backwards: %q", i, went)
		}
		l.goesOn()
	}
	wantMechanism(t, p, args)
	var ended strings.Builder
	for i, e := range waysToEnd {
		fmt.Fprintf(&ended, "%d %s, ", done[i], e.what)
	}
	wantNone(t, l.report("%s%d restarts of the same build, %[2]d upgrades, %[2]d roll-backs, ready within %[3]s, %[4]d counters went backwards",
		ended.String(), count, slowest, backwards))
}

// wantMechanism wants the programs to be attached by clsact where that was asked for.
func wantMechanism(t *testing.T, p *harness.Product, args []string) {
	t.Helper()
	if !slices.Equal(args, clsact) {
		return
	}
	for _, i := range p.Status().Interfaces {
		if i.Mechanism == nil || *i.Mechanism != "clsact" {
			t.Errorf("%s: the mechanism is not clsact", i.Name)
		}
	}
}

const (
	// nonsense is refused.
	nonsense = "mode: nonsense\n"
	// onlyTCP leaves datagrams to the kernel.
	onlyTCP = "interfaces: [{name: 'eth*'}]\nprotocols: [tcp]\n"
)

// configurations are read in turn. The last one serves everything.
var configurations = []string{
	"follow: latest\n", "exclude: [192.0.2.0/24]\n", nonsense,
	onlyTCP, "interfaces: [{name: 'eth*', next_hop: auto}]\n", "",
}

// TestReload reads a changed configuration again and again. Those that are refused are
// none of the reloads that are wanted.
func TestReload(t *testing.T) { testReload(t, times(t)) }

// TestReloadByClsact is the same, less often, where the programs are attached the other way.
func TestReloadByClsact(t *testing.T) { testReload(t, max(1, times(t)*3/10), clsact...) }

// testReload reloads so many times at least, to the end of the configurations.
func testReload(t *testing.T, wanted int, args ...string) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, "")
	d := p.Start(append(args, "--config", config)...)
	wantMechanism(t, p, args)
	l := startLoad(t, n)
	l.allGoOn()
	done, refused, backwards, last := 0, 0, 0, ""
	for i := 0; done < wanted || i%len(configurations) > 0; i++ {
		before, text, taken := p.Metrics(), configurations[i%len(configurations)], 1.0
		if text == nonsense {
			taken = 0
			refused++
		} else {
			done++
		}
		l.judgeBefore(text)
		harness.Must(t, os.WriteFile(config, []byte(text), 0o600))
		d.Reload()
		after := p.Metrics()
		if got := after.Sum("replypath_config_last_reload_successful"); got != taken {
			t.Errorf("reload %d of %q: success %v, not %v", i, text, got, taken)
		}
		if went := before.Backwards(after); len(went) > 0 {
			backwards += len(went)
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		l.goesOn()
		l.judgeAfter(text, last)
		last = text
	}
	wantNone(t, l.report("%d reloads, and %d that were refused, %d counters went backwards", done, refused, backwards))
}

// judgeBefore wants nothing astray before datagrams are left to the kernel: what went
// astray by then is not told from those afterwards.
func (l *load) judgeBefore(text string) {
	l.t.Helper()
	if text == onlyTCP {
		wantNone(l.t, l.strays())
	}
}

// judgeAfter wants the datagrams that are left to the kernel to go astray, which shows that
// it would be seen, and forgets them once they are served again.
func (l *load) judgeAfter(text, last string) {
	l.t.Helper()
	if text == onlyTCP {
		l.wantDatagramsAstray()
	}
	if last == onlyTCP {
		l.forget(topology.Not(topology.TCP))
	}
}

// TestRestartByHand restarts what was switched to enforce by hand with a configuration that
// enforces: it does so all the time.
func TestRestartByHand(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, "mode: observe\n")
	d := p.Start("--config", config)
	l := startLoad(t, n)
	l.wantAstray()
	const restarts = 10
	for range restarts {
		harness.Must(t, os.WriteFile(config, []byte("mode: observe\n"), 0o600))
		d.Reload()
		p.Expect(0, "mode", "enforce")
		l.allGoOn()
		l.forget(topology.Any)
		harness.Must(t, os.WriteFile(config, []byte("mode: enforce\n"), 0o600))
		d.Stop(unix.SIGTERM)
		d = p.Start("--config", config)
		l.allGoOn()
		wantNone(t, l.strays())
	}
	wantNone(t, l.report("%d restarts out of enforce by hand", restarts))
}
