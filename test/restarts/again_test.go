// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/restarts/builds"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
)

// clsact attaches the way that kernels without TCX need.
var clsact = []string{"--mechanism", "clsact"}

// TestEndAndUpgrade ends the daemon by SIGTERM, as a service manager restarts it, and SIGKILL in
// turn, and starts in turn the same build, one with other programs, and the first again. Either end comes before every kind
// of start, as the ones are two and the others three.
func TestEndAndUpgrade(t *testing.T) { testAgain(t, 1) }

// TestEndAndUpgradeByClsact is the same, half as often, where the programs are attached the other way.
func TestEndAndUpgradeByClsact(t *testing.T) { testAgain(t, 2, clsact...) }

// testAgain ends and starts daemons again and again under load. No connection may break, no datagram may be lost, no reply
// may leave by eth0, no counter may go backwards.
func testAgain(t *testing.T, seldom int, args ...string) {
	t.Parallel()
	version := product.Version(t)
	starts := []struct{ binary, version string }{{product.Binary(), version}}
	if !short.Run(t) { // another build needs a compiler
		other := binaryOf(t, &builds.OtherPrograms)
		starts = append(starts, struct{ binary, version string }{other, version + "-" + builds.OtherPrograms.Name}, starts[0])
	}
	const waysToEnd = 2
	count := max(waysToEnd*len(starts), times(t, waysToEnd)/seldom)
	n, p := server.New(t)
	// By clsact what is sent in the moment that an interface gets its qdisc is lost: it gets it before anybody asks.
	d := p.Start(append(args, "--observe")...)
	l := startLoad(t, n)
	wantAstray(l, topology.TCP, topology.UDP, topology.EchoReply)
	d.Stop(unix.SIGTERM)
	d = p.Start(args...)
	l.GoesOn()
	l.Forget()
	var slowest time.Duration
	backwards, done := 0, make(map[int]int)
	for i := range count {
		before, start := p.Metrics(), starts[i%len(starts)]
		if i%waysToEnd == 0 {
			d.Stop(unix.SIGTERM)
		} else {
			d.Kill()
		}
		d = startBuild(p, start.binary, args...)
		done[i%len(starts)]++
		slowest = max(slowest, d.ReadyAfter)
		after := p.Metrics()
		await.Same(t, "daemons of version "+start.version, 1, after.Sum("replypath_build_info", "version="+start.version))
		if went := before.Backwards(after); len(went) > 0 {
			backwards += len(went)
			t.Errorf("after start %d, counters went backwards: %q", i, went)
		}
		l.GoesOn()
	}
	wantMechanism(t, p, args)
	wantNone(t, report(l, "%d stops, %d kills, %d restarts of the same build, %d upgrades, %d roll-backs, ready within %s, %d counters went backwards",
		(count+1)/waysToEnd, count/waysToEnd, done[0], done[1], done[2], slowest, backwards))
}

// wantMechanism wants the programs to be attached by clsact where that was asked for.
func wantMechanism(t *testing.T, p *product.Product, args []string) {
	t.Helper()
	for _, i := range p.Status().Interfaces {
		if slices.Equal(args, clsact) && product.OrEmpty(i.Mechanism) != "clsact" {
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
func TestReload(t *testing.T) { testReload(t, times(t, 1)) }

// TestReloadByClsact is the same, less often, where the programs are attached the other way.
func TestReloadByClsact(t *testing.T) { testReload(t, times(t, 1)*3/10, clsact...) }

// testReload reloads so many times at least, to the end of the configurations.
func testReload(t *testing.T, wanted int, args ...string) {
	t.Parallel()
	n, p := server.New(t)
	config := product.WriteConfig(t, "")
	d := p.Start(append(args, "--config", config)...)
	wantMechanism(t, p, args)
	l := startLoad(t, n)
	done, refused, backwards := 0, 0, 0
	for i := 0; i == 0 || done < wanted || i%len(configurations) > 0; i++ {
		before, text, taken := p.Metrics(), configurations[i%len(configurations)], 1.0
		if text == nonsense {
			taken = 0
			refused++
		} else {
			done++
		}
		await.Must(t, os.WriteFile(config, []byte(text), 0o600))
		d.Reload()
		after := p.Metrics()
		await.Same(t, "success of a reload of "+text, taken, after.Sum("replypath_config_last_reload_successful"))
		if went := before.Backwards(after); len(went) > 0 {
			backwards += len(went)
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		l.GoesOn()
		if text == onlyTCP { // those that are left to the kernel show that a stray would be seen
			wantAstray(l, topology.UDP, topology.EchoReply)
			continue
		}
		if i%len(configurations) > 0 && configurations[i%len(configurations)-1] == onlyTCP {
			wantNone(t, slices.DeleteFunc(l.Forget(), topology.Not(topology.TCP)))
		}
		wantNone(t, l.Forget())
	}
	wantNone(t, report(l, "%d reloads, and %d that were refused, %d counters went backwards", done, refused, backwards))
}

// TestLayout starts a build whose maps have another layout, under load, and the usual
// one again. The datapath that is there works until it is replaced; the flows are known anew with their next packet.
// The log says what is. Of the answers to what was asked before, few go as routed.
func TestLayout(t *testing.T) {
	t.Parallel()
	binaries := []string{product.Binary(), binaryOf(t, &builds.OtherLayout)}
	n, p := server.New(t)
	d := startBuild(p, binaries[0])
	l := startLoad(t, n)
	count := max(len(binaries), times(t, 1)/10)
	for i := range count {
		before := p.Metrics()
		d.Kill()
		l.GoesOn()
		quiet := product.Quiet(t) // or more comes in while the programs are replaced, one after the other
		d = startBuild(p, binaries[(i+1)%2])
		quiet()
		d.WaitLog(1, "level=WARN", "flows are recorded again", "it has another layout")
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after start %d, counters went backwards: %q", i, went)
		}
		l.GoesOn()
	}
	const each = 5 // 15 frames were measured at 10 changes, of 18,700 answers
	wantFew(t, report(l, "%d changes of the layout", count), each, count)
}

// TestWriters starts several that want to write at once: one does, the others name it and end. TestTryBesideRun has them
// beside one that runs.
func TestWriters(t *testing.T) {
	t.Parallel()
	_, p := server.New(t)
	p.Start().Kill() // there is a status from then on
	daemons := []*product.Daemon{p.Launch("--listen", ""), p.Launch("--listen", ""), p.Launch("--listen", "")}
	owner := 0
	await.Eventually(t, "one has the pins", func() error {
		s := p.Status()
		isOwner := func(d *product.Daemon) bool { return s.Daemon.PID != nil && *s.Daemon.PID == d.PID() }
		if !s.Daemon.Running || !slices.ContainsFunc(daemons, isOwner) { // at first it is named as who was before
			return fmt.Errorf("daemon %+v", s.Daemon)
		}
		owner = *s.Daemon.PID
		return nil
	})
	for _, d := range daemons {
		if d.PID() == owner {
			d.WaitReady()
			continue
		}
		d.WantEnd(1)
		d.WaitLog(1, "is held by a running replypath")
	}
	t.Logf("%d writers at once: 1 owner", len(daemons))
}
