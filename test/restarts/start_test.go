// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/restarts/builds"
)

// TestLayout starts a build whose maps have another layout, under load, and the usual
// one again. The datapath that is there works until it is replaced; the flows are known anew with their next packet.
// The log says what is. Of the answers to what was asked before, few go as routed.
func TestLayout(t *testing.T) {
	t.Parallel()
	binaries := []string{harness.Binary(), binaryOf(t, &builds.OtherLayout)}
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := startBuild(p, binaries[0])
	l := startLoad(t, n)
	l.allGoOn()
	count := max(2, times(t)/10)
	for i := range count {
		before := p.Metrics()
		d.Kill()
		l.goesOn()
		d = startBuild(p, binaries[(i+1)%2])
		d.WaitLog(1, "level=WARN", "flows are recorded again", "it has another layout")
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after start %d, counters went backwards: %q", i, went)
		}
		l.allGoOn()
	}
	const each = 5 // 15 frames were measured at 10 changes, of 18,700 answers
	wantFew(t, l.report("%d changes of the layout", count), each, count)
}

// TestKilledAnyTime kills the daemon at many moments of its start, on a host without
// anything; detach leaves nothing of it.
func TestKilledAnyTime(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	harness.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
	p := harness.On(t, n.Server.Host)
	r := newTried(t, n, p)
	d := p.Start()
	whole := d.ReadyAfter
	d.Stop(unix.SIGTERM)
	p.Detach()
	r.wantBack()
	count := max(1, times(t)/5)
	for i := range count {
		d := p.Launch()
		// The moment is what is tested, so that there is nothing to wait for.
		time.Sleep(whole * time.Duration(i) / time.Duration(count))
		d.Kill()
		p.Detach()
		r.wantBack()
	}
	t.Logf("%d kills within %s, then detach: 0 differences", count, whole)
}

// TestWriters starts several that want to write at once: one does, the others name it
// and end.
func TestWriters(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start("--observe")
	commands := [][]string{{"run"}, {"try"}, {"detach"}}
	const rounds = 3
	for range rounds {
		results := make([]*harness.Result, len(commands))
		var all sync.WaitGroup
		for i, command := range commands {
			all.Go(func() { results[i] = p.Run(command...) })
		}
		all.Wait()
		for _, r := range results {
			if r.Code != 1 || !strings.Contains(r.Stderr, fmt.Sprintf("pid %d", d.PID())) {
				t.Errorf("beside pid %d: %s", d.PID(), r)
			}
		}
	}
	d.Kill()
	daemons := []*harness.Daemon{p.Launch("--listen", ""), p.Launch("--listen", ""), p.Launch("--listen", "")}
	owner := 0
	harness.Eventually(t, "one has the pins", func() error {
		s := p.Status()
		if !s.Daemon.Running {
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
		if code := d.WaitEnd(); code != 1 {
			t.Errorf("the second one ended with exit code %d:\n%s", code, d.Log)
		}
		d.WaitLog(1, "is held by a running replypath")
	}
	t.Logf("%d writers beside one, and 3 at once: 1 owner", rounds*len(commands))
}
