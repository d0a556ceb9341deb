// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/pace"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// startTime is what a start may take, to READY=1 and to the first corrected reply.
const startTime = time.Second

// wantFast measures three starts while nothing else does, and judges their median: each against startTime, which is longer by
// as much as the machine is slower at that moment, seen before and after the start.
func wantFast(t *testing.T, what string, start func() time.Duration) {
	t.Helper()
	defer product.Quiet(t)()
	var shares []float64 // of what is granted
	for range 3 {
		before := await.Must1[float64](t)(pace.Now())
		took := start()
		times := (before + await.Must1[float64](t)(pace.Now())) / 2
		shares = append(shares, took.Seconds()/(startTime.Seconds()*times))
		t.Logf("%s after %s, %.2f times %s are granted", what, took.Round(time.Millisecond), times, startTime)
	}
	slices.Sort(shares)
	if shares[1] > 1 {
		t.Errorf("%s: in the median %.2f times what is granted", what, shares[1])
	}
}

// TestEmptyConfiguration starts on a server with two interfaces without saying
// anything about it, and holds everything that is told against the capture.
func TestEmptyConfiguration(t *testing.T) { server.EachMechanism(t, testEmptyConfiguration) }

func testEmptyConfiguration(t *testing.T, mechanism string) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Offloads: topology.WireExact})
	p := product.On(t, n.Server.Host)
	var d *product.Daemon
	wantFast(t, "ready", func() time.Duration {
		p.Expect(0, "detach", "--stop")
		d = start(p, mechanism)
		return d.ReadyAfter
	})
	checkStatus(t, n, p, d, mechanism)
	for _, f := range n.Families() {
		traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		for _, kind := range traffic.Kinds {
			t.Run(f.String()+"/"+string(kind), func(t *testing.T) { testAgreement(t, n, p.In(t), f, kind) })
		}
	}
	await.Must1[string](t)(p.Get("/healthz"))
}

// checkStatus looks at the parts of the status that do not depend on traffic. eth0 has gateways of both families, with their
// MAC: eth1 has none in any routing table.
func checkStatus(t *testing.T, n *topology.TwoNIC, p *product.Product, d *product.Daemon, mechanism string) {
	t.Helper()
	s := p.Status()
	if s.Mode != "enforce" || !s.Daemon.Running || s.Daemon.PID == nil || *s.Daemon.PID != d.PID() {
		t.Errorf("mode %q, daemon %+v: want enforce, running with pid %d", s.Mode, s.Daemon, d.PID())
	}
	if s.Config.LoadedAt == nil || s.Config.Error != nil || len(s.Errors) > 0 {
		t.Errorf("configuration %+v, errors %q", s.Config, s.Errors)
	}
	if len(s.Interfaces) != 2 || s.Flows.Count != 0 || s.Flows.Capacity == 0 {
		t.Errorf("%d interfaces, flows %+v", len(s.Interfaces), s.Flows)
	}
	for _, nic := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		i := s.Interface(nic.Name)
		if i == nil || i.Index != nic.Index || !i.Up || !i.Attached || product.OrEmpty(i.Mechanism) != mechanism {
			t.Fatalf("%s in the status: %+v", nic.Name, i)
		}
		got, want := make(map[string]string), make(map[string]string)
		for _, g := range i.Gateways {
			got[g.Address] = product.OrEmpty(g.MAC)
		}
		for _, f := range n.Families() {
			if nic == n.Server.Eth0 {
				want[nic.Gateway(f).String()] = nic.Peer().MAC.String()
			}
		}
		await.Same(t, fmt.Sprintf("gateways of %s", nic.Name), want, got)
	}
}

// testAgreement has one conversation with eth1 and one with eth0, and wants the
// metrics, the status and the flow table to say what was captured.
func testAgreement(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family, kind traffic.Kind) {
	wires, before := wire.Tap(t, n.Server), p.Metrics()
	flowsBefore := p.Status().Flows.Count
	c := conversation(t, n, kind, f)
	for range 10 {
		traffic.Ask(t, c)
	}
	if kind == traffic.TCP {
		await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), 100_000))
	}
	direct := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth0.Address(f))
	traffic.Ask(t, direct)

	answers := wires.WantEth1("asking eth1", c.Answers())
	wires.WantEth0("asking eth0", direct.Answers())
	after := p.Metrics()
	checkMetrics(t, before, after, c, answers)
	for name, want := range counted(answers) { // and nothing beside these, with any labels
		await.Same(t, name+", with any labels", float64(want), after.Sum(name)-before.Sum(name))
	}
	checkFlows(t, p, n.Server.Eth1, c, answers)
	await.Same(t, "flows more in the status", 2, p.Status().Flows.Count-flowsBefore)
}

// counted are the counters that grow with corrected answers, and by how much.
func counted(answers []*topology.Frame) map[string]int {
	return map[string]int{
		"replypath_asymmetric_packets_total": len(answers),
		"replypath_asymmetric_flows_total":   1,
		"replypath_corrected_packets_total":  len(answers),
		"replypath_corrected_bytes_total":    int(wire.Bytes(answers)),
		"replypath_corrected_flows_total":    1,
	}
}

// checkMetrics compares the counters of the conversation's labels with frames.
func checkMetrics(t *testing.T, before, after product.Metrics, c *traffic.Conversation, answers []*topology.Frame) {
	t.Helper()
	labels := []string{
		"from_interface=eth0", "to_interface=eth1", "protocol=" + c.Protocol(),
		"family=" + topology.FamilyOf(c.Self.Addr()).String(),
	}
	for name, want := range counted(answers) {
		await.Same(t, name+" of "+c.String(), float64(want), after.Sum(name, labels...)-before.Sum(name, labels...))
	}
	for _, name := range []string{"replypath_uncorrected_packets_total", "replypath_uncounted_packets_total"} {
		await.Same(t, name, 0, after.Sum(name))
	}
}

// checkFlows compares the conversation's entry in the flow table with frames.
func checkFlows(t *testing.T, p *product.Product, by *topology.Interface, c *traffic.Conversation, answers []*topology.Frame) {
	t.Helper()
	flow := findFlow(t, p, c)
	mac := by.Peer().MAC.String()
	state := "connectionless"
	if c.Kind == traffic.TCP {
		state = "established"
	}
	want := product.Flow{
		Protocol: c.Protocol(), Family: topology.FamilyOf(c.Self.Addr()).String(),
		Peer: c.Peer.Addr().String(), PeerPort: c.Peer.Port(),
		Self: c.Self.Addr().String(), SelfPort: c.Self.Port(),
		Interface: &by.Name, NextHopMAC: &mac, State: state,
		AgeSeconds: flow.AgeSeconds, CorrectedPackets: uint64(len(answers)),
	}
	await.Same(t, "flow", want, *flow)
	if oldest := time.Since(answers[0].Time) + await.AnswerTime; flow.AgeSeconds < 0 || flow.AgeSeconds > oldest.Seconds() {
		t.Errorf("the flow is %v seconds old", flow.AgeSeconds)
	}
}

// findFlow returns the conversation's entry in the flow table.
func findFlow(t *testing.T, p *product.Product, c *traffic.Conversation) *product.Flow {
	t.Helper()
	flows := p.Flows("--protocol", c.Protocol(), "--peer", c.Peer.Addr().String())
	for i, flow := range flows {
		if flow.PeerPort == c.Peer.Port() && flow.Self == c.Self.Addr().String() {
			return &flows[i]
		}
	}
	t.Fatalf("no flow of %s among %v", c, flows)
	return nil
}

// TestFirstCorrection has flows of every kind go on while the daemon starts, which are older
// than it, and measures from the start of the process until the first replies of all have left
// by eth1. From its first such reply on, each flow stays there.
func TestFirstCorrection(t *testing.T) {
	n, p := server.NewExact(t)
	all := conversations(t, n)
	for _, c := range all {
		traffic.Ask(t, c)
		talk := c.Keep(t)
		t.Cleanup(func() { talk.Stop() })
	}
	wantFast(t, "first correction", func() time.Duration {
		p.Expect(0, "detach", "--stop")
		wires := wire.Tap(t, n.Server)
		d := p.Start()
		var last time.Time
		for _, c := range all {
			if first := firstCorrection(t, p, wires, c); first.After(last) {
				last = first
			}
		}
		return last.Sub(d.Started)
	})
}

// firstCorrection returns when the first answer left by eth1, and wants all later ones there.
func firstCorrection(t *testing.T, p *product.Product, wires *wire.Wires, c *traffic.Conversation) time.Time {
	t.Helper()
	first, err := wires.Eth1.Wait(await.Within(t, await.AnswerTime), c.Answers())
	if err != nil {
		t.Fatalf("%s, begun before the start: no answer by eth1: %v; flows: %v; inbound packets taken for answers: %v",
			c, err, p.Flows(), p.Metrics().Sum("replypath_ignored_packets_total", "reason=answer"))
	}
	// One more round shows what the table has been told since.
	seen := wires.Eth1.Count(c.Answers())
	if _, err := wires.Eth1.WaitCount(await.Within(t, await.AnswerTime), seen+server.Live, c.Answers()); err != nil {
		t.Errorf("%s does not go on by eth1: %v", c, err)
	}
	eth0, _ := wires.Left(topology.All(c.Answers(), func(f *topology.Frame) bool { return f.Time.After(first.Time) }))
	if len(eth0) > 0 {
		t.Errorf("%s: after the first reply by eth1, by eth0 left %s", c, wire.Describe(eth0))
	}
	return first.Time
}
