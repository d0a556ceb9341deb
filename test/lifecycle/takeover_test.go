// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// live is how many more answers of a conversation show that it goes on.
const live = 30

// running is a conversation that goes on while daemons come and go.
type running struct {
	t     *testing.T
	c     *traffic.Conversation
	talk  *traffic.Talk
	wires *wire.Wires
}

// keepAsking begins a conversation of a kind, which is corrected, and goes on.
func keepAsking(t *testing.T, n *topology.TwoNIC, kind traffic.Kind, f topology.Family) *running {
	t.Helper()
	return keep(t, n, conversation(t, n, kind, f))
}

func keep(t *testing.T, n *topology.TwoNIC, c *traffic.Conversation) *running {
	t.Helper()
	r := &running{t: t, c: c, wires: wire.Tap(t, n.Server)}
	traffic.Ask(t, c)
	r.talk = r.c.Keep(t)
	r.goesOn()
	return r
}

// keepAskingAll is keepAsking for every kind and family.
func keepAskingAll(t *testing.T, n *topology.TwoNIC) []*running {
	t.Helper()
	var all []*running
	for _, c := range conversations(t, n) {
		all = append(all, keep(t, n, c))
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
	_, err := r.wires.Eth1.WaitCount(await.Within(r.t, await.AnswerTime), seen+live, r.c.Answers())
	if err != nil {
		eth0, _ := r.wires.Left(r.c.Answers())
		r.t.Fatalf("%s does not go on by eth1: %v; by eth0 left %s", r.c, err, wire.Describe(eth0))
	}
}

// end wants that every question was answered, and every answer by eth1.
func (r *running) end() []*topology.Frame {
	r.t.Helper()
	r.talk.Stop()
	return r.wires.WantEth1(r.c.String(), r.c.Answers())
}

// endAll ends conversations, and counts their answers by the interface that was asked and by eth0.
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
func wantInterface(t *testing.T, p *product.Product, name string, all []*running) {
	t.Helper()
	for _, r := range all {
		await.Eventually(t, fmt.Sprintf("the flow of %s is listed with %s", r.c, name), func() error {
			if flow := findFlow(t, p, r.c); flow.Interface == nil || *flow.Interface != name {
				return fmt.Errorf("its interface is %v", product.OrEmpty(flow.Interface))
			}
			return nil
		})
	}
}

// settled returns all answers, and metrics that were read when there were no others: TCP may send the last one again.
func (r *running) settled(p *product.Product) ([]*topology.Frame, product.Metrics) {
	r.t.Helper()
	for ctx := await.Within(r.t, await.AnswerTime); ctx.Err() == nil; {
		answers := r.wires.WantEth1(r.c.String(), r.c.Answers())
		metrics := p.Metrics()
		if _, eth1 := r.wires.Left(r.c.Answers()); len(eth1) == len(answers) {
			return answers, metrics
		}
	}
	r.t.Fatalf("%s does not come to an end", r.c)
	return nil, nil
}

// TestKill kills the daemon, and stops it, under running conversations of every kind: neither its end nor the next start may
// send a single reply the wrong way, lose a flow, set a counter back or have a program verified again, as a first start does.
func TestKill(t *testing.T) {
	eachMechanism(t, "tcx", func(t *testing.T, mechanism string) {
		n, p := newServer(t)
		first := start(p, mechanism)
		if mechanism == "tcx" {
			host.NeedTCX(t)
		}
		all, programs := keepAskingAll(t, n), pinnedPrograms(t, p)
		last := killAndStart(t, p, first, all, mechanism, mechanism)
		t.Logf("ready after %s, the first start after %s", last.ReadyAfter, first.ReadyAfter)
		if after := pinnedPrograms(t, p); !maps.Equal(programs, after) {
			t.Errorf("programs %v became %v", programs, after)
		}
		for _, r := range all {
			answers, metrics := r.settled(p)
			checkMetrics(t, nil, metrics, r.c, answers)
			checkFlows(t, p, n.Server.Eth1, r.c, answers)
		}
		wantAdmissions(t, p, 2, 2, 4)
		p.Expect(0, "detach", "--stop")
		start(p, mechanism)
		for name, id := range pinnedPrograms(t, p) {
			if programs[name] == id {
				t.Errorf("%s has outlived detach", name)
			}
		}
	})
}

// pinnedPrograms returns the ids of the programs that are pinned. The kernel gives another to each that it verifies.
func pinnedPrograms(t *testing.T, p *product.Product) map[string]ebpf.ProgramID {
	t.Helper()
	dir := filepath.Join(p.PinDir, "maps", "programs")
	ids := make(map[string]ebpf.ProgramID)
	for _, entry := range await.Must1[[]os.DirEntry](t)(os.ReadDir(dir)) {
		program := await.Must1[*ebpf.Program](t)(ebpf.LoadPinnedProgram(filepath.Join(dir, entry.Name()), nil))
		info := await.Must1[*ebpf.ProgramInfo](t)(program.Info())
		ids[entry.Name()], _ = info.ID()
		await.Must(t, program.Close())
	}
	return ids
}

// TestChangeOfMechanism has the next daemon attach by the other mechanism, as after an update of its abilities or the
// kernel's. Only TCP is sure to survive that: the kernel stops an interface's queues for a moment when it gets or loses
// a clsact qdisc (net/sched/sch_api.c, qdisc_graft), and drops what comes to them.
func TestChangeOfMechanism(t *testing.T) {
	n, p := newServer(t)
	d := start(p, "clsact")
	host.NeedTCX(t)
	all := []*running{keepAsking(t, n, traffic.TCP, topology.IPv4), keepAsking(t, n, traffic.TCP, topology.IPv6)}
	killAndStart(t, p, d, all, "tcx", "clsact")
	wantAdmissions(t, p, 2, 2, 0)
}

// killAndStart kills a daemon and starts the next one by a mechanism, stops that and starts one by another, while all
// conversations go on.
func killAndStart(t *testing.T, p *product.Product, d *product.Daemon, all []*running, next, other string) *product.Daemon {
	t.Helper()
	for i, mechanism := range []string{next, other} {
		before := p.Metrics()
		if i == 0 {
			d.Kill()
		} else {
			d.Stop(unix.SIGTERM)
		}
		goOn(all)
		if s := p.Status(); s.Daemon.Running || s.Daemon.PID != nil || s.Flows.Count != len(all) {
			t.Errorf("without a daemon: daemon %+v, %d flows, not %d", s.Daemon, s.Flows.Count, len(all))
		}
		d = start(p, mechanism)
		if got := product.OrEmpty(p.Status().Interface("eth1").Mechanism); got != mechanism {
			t.Errorf("attached by %q, not by %s", got, mechanism)
		}
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after the next start, counters went backwards: %q", went)
		}
		goOn(all)
	}
	endAll(all)
	return d
}

// wantAdmissions wants so many flows to have been entered into the tables, and
// none to have been lost and entered again.
func wantAdmissions(t *testing.T, p *product.Product, halfOpen, established, connectionless float64) {
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
