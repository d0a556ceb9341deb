// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// keepAsking begins a conversation of a kind, which is corrected, and goes on.
func keepAsking(t *testing.T, n *topology.TwoNIC, kind traffic.Kind, f topology.Family) *server.Talk {
	t.Helper()
	return server.Keep(t, n.Server, conversation(t, n, kind, f))[0]
}

// keepAskingAll is keepAsking for every kind and family.
func keepAskingAll(t *testing.T, n *topology.TwoNIC) server.Talks {
	t.Helper()
	return server.Keep(t, n.Server, conversations(t, n)...)
}

// wantInterface wants the flows of conversations to be listed with an interface. The journal has its name later than
// the kernel.
func wantInterface(t *testing.T, p *product.Product, name string, all server.Talks) {
	t.Helper()
	for _, r := range all {
		await.Eventually(t, fmt.Sprintf("the flow of %s is listed with %s", r.Conversation, name), func() error {
			if flow := findFlow(t, p, r.Conversation); flow.Interface == nil || *flow.Interface != name {
				return fmt.Errorf("its interface is %v", product.OrEmpty(flow.Interface))
			}
			return nil
		})
	}
}

// settled returns all answers, and metrics that were read when there were no others: TCP may send the last one again.
func settled(r *server.Talk, p *product.Product) ([]*topology.Frame, product.Metrics) {
	r.Helper()
	for ctx := await.Within(r, await.AnswerTime); ctx.Err() == nil; {
		answers := r.WantEth1()
		metrics := p.Metrics()
		if _, eth1 := r.Wires.Left(r.Answers()); len(eth1) == len(answers) {
			return answers, metrics
		}
	}
	r.Fatalf("%s does not come to an end", r)
	return nil, nil
}

// TestKill kills the daemon, and stops it, under running conversations of every kind: neither its end nor the next start may
// send a single reply the wrong way, lose a flow or set a counter back. TestProgramsAreTakenOver of package loader has the programs.
func TestKill(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n, p := server.NewExact(t)
		first := start(p, mechanism)
		all := keepAskingAll(t, n)
		last := killAndStart(t, p, first, all, mechanism, mechanism)
		t.Logf("ready after %s, the first start after %s", last.ReadyAfter, first.ReadyAfter)
		for _, r := range all {
			answers, metrics := settled(r, p)
			checkMetrics(t, nil, metrics, r.Conversation, answers)
			checkFlows(t, p, n.Server.Eth1, r.Conversation, answers)
		}
		wantAdmissions(t, p, 2, 2, 4)
	})
}

// TestChangeOfMechanism has the next daemon attach by the other mechanism, as after an update of its abilities or the
// kernel's. Only TCP is sure to survive that: the kernel stops an interface's queues for a moment when it gets or loses
// a clsact qdisc (net/sched/sch_api.c, qdisc_graft), and drops what comes to them.
func TestChangeOfMechanism(t *testing.T) {
	n, p := server.NewExact(t)
	d := start(p, "clsact")
	host.NeedTCX(t)
	all := server.Talks{keepAsking(t, n, traffic.TCP, topology.IPv4), keepAsking(t, n, traffic.TCP, topology.IPv6)}
	killAndStart(t, p, d, all, "tcx", "clsact")
	wantAdmissions(t, p, 2, 2, 0)
}

// killAndStart kills a daemon and starts the next one by a mechanism, stops that and starts one by another, while all
// conversations go on.
func killAndStart(t *testing.T, p *product.Product, d *product.Daemon, all server.Talks, next, other string) *product.Daemon {
	t.Helper()
	for i, mechanism := range []string{next, other} {
		before := p.Metrics()
		if i == 0 {
			d.Kill()
		} else {
			d.Stop(unix.SIGTERM)
		}
		all.GoOn()
		if s := p.Status(); s.Daemon.Running || s.Daemon.PID != nil || s.Flows.Count != len(all) {
			t.Errorf("without a daemon: daemon %+v, %d flows, not %d", s.Daemon, s.Flows.Count, len(all))
		}
		d = start(p, mechanism)
		await.Same(t, "attached by", mechanism, product.OrEmpty(p.Status().Interface("eth1").Mechanism))
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after the next start, counters went backwards: %q", went)
		}
		all.GoOn()
	}
	all.End()
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
		await.Same(t, "flows that were entered into "+table, want, m.Sum("replypath_flow_admissions_total", "table="+table))
	}
	await.Same(t, "flows that were lost and entered again", 0, m.Sum("replypath_flow_readmissions_total"))
}

// TestHang: every command that judges says so of a daemon that has not worked for 90 s, whose replies leave right all the same.
// The time passes by what the daemon leaves behind.
func TestHang(t *testing.T) {
	n, p := server.NewExact(t)
	d := p.Start()
	p.Expect(0, "status")
	d.Signal(unix.SIGSTOP)
	await.Eventually(t, "the daemon is said to hang", func() error {
		before := time.Now().Add(-95 * time.Second)
		if err := os.Chtimes(p.PinDir, before, before); err != nil {
			return err
		}
		for _, command := range []string{"status", "doctor", "plan"} {
			said := p.Run(command)
			if said.Code != 3 || !strings.Contains(said.Stdout, "the daemon hangs: its last pass was 1m35s ago") {
				return fmt.Errorf("%s", said)
			}
		}
		return nil
	})
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
	d.Signal(unix.SIGCONT)
	await.Eventually(t, "it goes on", func() error {
		if said := p.Run("status"); said.Code != 0 {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
}
