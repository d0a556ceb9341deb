// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// live is how many more answers of a conversation show that it goes on.
const live = 30

// running is a conversation that goes on while daemons come and go.
type running struct {
	t     *testing.T
	c     *harness.Conversation
	talk  *harness.Talk
	wires *harness.Wires
}

// keepAsking begins a conversation of a kind, which is corrected, and goes on.
func keepAsking(t *testing.T, n *topology.TwoNIC, kind harness.Kind, f topology.Family) *running {
	t.Helper()
	r := &running{t: t, c: conversation(t, n, kind, f), wires: harness.Tap(t, n.Server)}
	harness.Ask(t, r.c)
	r.talk = r.c.Keep(t)
	r.goesOn()
	return r
}

// keepAskingAll is keepAsking for every kind and family.
func keepAskingAll(t *testing.T, n *topology.TwoNIC) []*running {
	t.Helper()
	var all []*running
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			all = append(all, keepAsking(t, n, kind, f))
		}
	}
	return all
}

func goOn(all []*running) {
	for _, r := range all {
		r.t.Helper()
		r.goesOn()
	}
}

// goesOn wants more answers by eth1.
func (r *running) goesOn() {
	r.t.Helper()
	seen := r.wires.Eth1.Count(r.c.Answers())
	_, err := r.wires.Eth1.WaitCount(harness.Within(r.t, harness.AnswerTime), seen+live, r.c.Answers())
	if err != nil {
		eth0, _ := r.wires.Left(r.c.Answers())
		r.t.Fatalf("%s does not go on by eth1: %v; by eth0 left %s", r.c, err, harness.Describe(eth0))
	}
}

// end wants that every question was answered, and every answer by eth1.
func (r *running) end() []*topology.Frame {
	r.t.Helper()
	r.talk.Stop()
	return r.wires.WantEth1(r.c.String(), r.c.Answers())
}

// endAll ends conversations, and counts their answers by the interface that was asked
// and by eth0.
func endAll(all []*running) (right, wrong int) {
	for _, r := range all {
		r.t.Helper()
		right += len(r.end())
		eth0, _ := r.wires.Left(r.c.Answers())
		wrong += len(eth0)
	}
	return right, wrong
}

// wantInterface wants the flows of conversations to be listed with an interface. The journal has its name later than
// the kernel.
func wantInterface(t *testing.T, p *harness.Product, name string, all []*running) {
	t.Helper()
	for _, r := range all {
		harness.Eventually(t, fmt.Sprintf("the flow of %s is listed with %s", r.c, name), func() error {
			if flow := findFlow(t, p, r.c); flow.Interface == nil || *flow.Interface != name {
				return fmt.Errorf("its interface is %v", deref(flow.Interface))
			}
			return nil
		})
	}
}

// settled returns all answers, and metrics that were read when there were no others:
// TCP may send the last one again.
func (r *running) settled(p *harness.Product) ([]*topology.Frame, harness.Metrics) {
	r.t.Helper()
	for ctx := harness.Within(r.t, harness.AnswerTime); ctx.Err() == nil; {
		answers := r.wires.WantEth1(r.c.String(), r.c.Answers())
		metrics := p.Metrics()
		if _, eth1 := r.wires.Left(r.c.Answers()); len(eth1) == len(answers) {
			return answers, metrics
		}
	}
	r.t.Fatalf("%s does not come to an end", r.c)
	return nil, nil
}

// TestKill kills the daemon again and again under running conversations of every
// kind: neither its death nor the next start may send a single reply the wrong
// way, lose a flow or set a counter back.
func TestKill(t *testing.T) {
	for _, mechanism := range mechanisms {
		t.Run(mechanism, func(t *testing.T) {
			n := newServer(t)
			p := harness.On(t, n.Server.Host)
			d := start(p, mechanism)
			if mechanism != mechanisms[1] {
				harness.NeedTCX(t)
			}
			all := keepAskingAll(t, n)
			killAndStart(t, p, d, all, mechanism, mechanism)
			for _, r := range all {
				r.end()
			}
			for _, r := range all {
				answers, metrics := r.settled(p)
				checkMetrics(t, nil, metrics, r.c, answers)
				checkFlows(t, p, n.Server.Eth1, r.c, answers)
			}
			wantAdmissions(t, p, 2, 2, 4)
		})
	}
}

// TestChangeOfMechanism has the next daemon attach by the other mechanism, as
// after an update of its abilities or the kernel's. Only TCP is sure to survive
// that: the kernel stops an interface's queues for a moment when it gets or
// loses a clsact qdisc (net/sched/sch_api.c, qdisc_graft), and drops what comes
// to them.
func TestChangeOfMechanism(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := start(p, mechanisms[1])
	harness.NeedTCX(t)
	all := []*running{
		keepAsking(t, n, harness.TCP, topology.IPv4), keepAsking(t, n, harness.TCP, topology.IPv6),
	}
	killAndStart(t, p, d, all, mechanisms[0], mechanisms[1])
	for _, r := range all {
		r.end()
	}
	wantAdmissions(t, p, 2, 2, 0)
}

// killAndStart kills a daemon and starts the next one, by two mechanisms in turn,
// while all conversations go on.
func killAndStart(t *testing.T, p *harness.Product, d *harness.Daemon, all []*running, mechanism, next string) {
	t.Helper()
	for range 3 {
		before := p.Metrics()
		d.Kill()
		goOn(all)
		if s := p.Status(); s.Daemon.Running || s.Daemon.PID != nil || s.Flows.Count != len(all) {
			t.Errorf("after the kill: daemon %+v, %d flows, not %d", s.Daemon, s.Flows.Count, len(all))
		}
		d = start(p, mechanism)
		if got := p.Status().Interface("eth1").Mechanism; got == nil || *got != mechanism {
			t.Errorf("attached by %s, not by %s", deref(got), mechanism)
		}
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after the next start, counters went backwards: %q", went)
		}
		goOn(all)
		mechanism, next = next, mechanism
	}
}

// wantAdmissions wants so many flows to have been entered into the tables, and
// none to have been lost and entered again.
func wantAdmissions(t *testing.T, p *harness.Product, halfOpen, established, connectionless float64) {
	t.Helper()
	m := p.Metrics()
	for table, want := range map[string]float64{
		"half_open": halfOpen, "established": established, "connectionless": connectionless,
	} {
		if got := m.Sum("replypath_flow_admissions_total", "table="+table); got != want {
			t.Errorf("%v flows were entered into %s, not %v", got, table, want)
		}
	}
	if got := m.Sum("replypath_flow_readmissions_total"); got != 0 {
		t.Errorf("%v flows were lost and entered again", got)
	}
}

// TestKillWhileStarting kills a daemon in the middle of its start, first on a
// host without anything, then beside a datapath that works. The next one makes
// good for it.
func TestKillWhileStarting(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	// From an early line of the log to a late one.
	moments := []string{"gateway is resolved", "interface=eth0 index", "interface=eth1 index"}
	for _, moment := range moments {
		d := p.Launch()
		harness.Must(t, d.Log.Wait(harness.Within(t, harness.StartTime), 1, moment))
		d.Kill()
		p.Start().Stop(unix.SIGTERM)
		harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
		p.Detach()
		harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), false)
	}
	p.Start().Kill()
	r := keepAsking(t, n, harness.TCP, topology.IPv6)
	for range 3 {
		d := p.Launch()
		r.goesOn()
		d.Kill()
	}
	p.Start()
	r.goesOn()
	r.end()
}

// TestStopSignals ends the daemon as a terminal and as a service manager do.
func TestStopSignals(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	c := conversation(t, n, harness.TCP, topology.IPv4)
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		d := p.Start()
		harness.WantBy(t, n.Server, c, true)
		d.Stop(signal)
		if len(d.Log.Lines("replies are still corrected on eth0, eth1; `replypath detach --pin-dir "+p.PinDir+"` ends that")) != 1 {
			t.Errorf("after %s the log does not say that replies are still corrected:\n%s", signal, d.Log)
		}
		harness.WantBy(t, n.Server, c, true)
	}
}
