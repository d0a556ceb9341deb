// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// ofConversation are the packets of one conversation in one direction.
func ofConversation(packets []product.TracedPacket, c *traffic.Conversation, direction string) []product.TracedPacket {
	var found []product.TracedPacket
	for _, p := range packets {
		if p.Direction == direction && p.Peer == c.Peer.Addr().String() && p.PeerPort == c.Peer.Port() {
			found = append(found, p)
		}
	}
	return found
}

// TestTrace compares what trace and tcpdump show with the frames that leave.
func TestTrace(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Offloads: topology.WireExact})
	p, d := product.StartOn(t, n.Server.Host, "--mechanism", "clsact")
	d.Kill()
	t.Run("tcpdump and clsact", func(t *testing.T) { testTap(t, n) })
	p.Detach()
	p.Start().Kill() // by tcx where there is one; kernels before 6.6 have none
	t.Run("tcpdump", func(t *testing.T) { testTap(t, n) })
	for _, f := range traffic.Families {
		traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		t.Run("probe/"+f.String(), func(t *testing.T) { testTraceSend(t, n, p.In(t), f) })
		for k, kind := range traffic.Kinds {
			for m, mode := range []string{"enforce", "observe"} {
				for a, at := range n.Server.NICs() {
					if short.Run(t) && (k+m+a)%2 != 0 { // each two of kind, mode and interface are shown
						continue
					}
					t.Run(fmt.Sprintf("%s/%s/%s/%s", f, kind, mode, at.Name), func(t *testing.T) {
						p := p.In(t)
						p.Expect(0, "mode", mode)
						testTrace(t, n, p, traffic.NewConversation(t, kind, n.ClientEth0, at.Address(f)), at, mode)
					})
				}
			}
		}
	}
	t.Run("nobody answers", func(t *testing.T) {
		self := n.Server.Eth1.Address(topology.IPv4).String()
		result := p.In(t).Expect(0, "trace", "--send", "--peer", "10.9.0.200", "--self", self, "-o", "json")
		lines := product.TracedPackets(t, result.Stdout)
		if len(lines) != 1 || lines[0].Verdict != "local-origin" || result.Stderr != "replypath: no answer within 3s\n" {
			t.Errorf("a probe without an answer: %s", result)
		}
		p.In(t).Expect(1, "trace", "--send", "--peer", n.ClientEth0.Address(topology.IPv4).String(), "--self", "192.0.2.1")
	})

	p.Start("--config", product.WriteConfig(t, "related: false\n"))
	p.Expect(0, "mode", "enforce")
	for _, f := range traffic.Families {
		t.Run("exact/"+f.String(), func(t *testing.T) { testTraceExact(t, n, p.In(t), f) })
		t.Run("of the host/"+f.String(), func(t *testing.T) { testTraceHost(t, n, p.In(t), f) })
	}
	t.Run("one", func(t *testing.T) { testTraceOne(t, n, p.In(t)) })
	t.Run("lost", func(t *testing.T) { testTraceLost(t, n, p.In(t)) })
}

// testTrace compares packets one by one.
func testTrace(t *testing.T, n *topology.TwoNIC, p *product.Product, c *traffic.Conversation, at *topology.Interface, mode string) {
	wires := wire.Tap(t, n.Server)
	ask := func() error { return c.Ask(await.Within(t, await.AnswerTime)) }
	await.Must(t, ask())
	frames := len(wires.Eth0.Frames(c.Answers())) + len(wires.Eth1.Frames(c.Answers()))
	trace := p.Trace(ask, "--peer", c.Peer.Addr().String(), "--self", c.Self.Addr().String())
	await.Must(t, ask())
	packets := trace.Interrupt()
	verdict, reason, out := "already-right", "", n.Server.Eth0
	switch {
	case at == n.Server.Eth1 && mode == "enforce":
		verdict, out = "corrected", n.Server.Eth1
	case at == n.Server.Eth1:
		verdict, reason = "fallback", "observe"
	}
	in, leaving := ofConversation(packets, c, "in"), ofConversation(packets, c, "out")
	for _, packet := range in {
		if product.OrEmpty(packet.InterfaceIn) != at.Name || packet.Verdict != "known" ||
			product.OrEmpty(packet.SourceMAC) != at.Peer().MAC.String() || packet.SeenLeaving != nil {
			t.Errorf("a question: %s", &packet)
		}
	}
	for _, packet := range leaving {
		if packet.Verdict != verdict || product.OrEmpty(packet.Reason) != reason ||
			product.OrEmpty(packet.InterfaceIn) != at.Name || product.OrEmpty(packet.Kernel.Interface) != "eth0" ||
			product.OrEmpty(packet.Kernel.NextHopMAC) != n.Server.Eth0.Peer().MAC.String() ||
			product.OrEmpty(packet.Out.Interface) != out.Name || product.OrEmpty(packet.Out.NextHopMAC) != out.Peer().MAC.String() ||
			packet.SeenLeaving == nil || !*packet.SeenLeaving || packet.Lost != 0 {
			t.Errorf("an answer: %s, want %s %s by %s", &packet, verdict, reason, out.Name)
		}
	}
	// Not every packet before the trace began was seen, every one since.
	eth0, eth1 := wires.Left(c.Answers())
	captured := len(eth0) + len(eth1) - frames
	if len(in) == 0 || len(leaving) == 0 || len(leaving) > captured {
		t.Errorf("%d questions and %d answers are shown, %d answers were captured", len(in), len(leaving), captured)
	}
	wires.Want(out == n.Server.Eth1, "as traced", c.Answers())
}

// testTraceExact counts: as many packets are shown as leave.
func testTraceExact(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	first := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
	trace := p.Trace(func() error { return first.Ask(await.Within(t, await.AnswerTime)) },
		"--peer", netip.PrefixFrom(first.Peer.Addr(), 8).Masked().String())
	wires := wire.Tap(t, n.Server)
	c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
	for range 20 {
		await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), 5000))
	}
	eth0, eth1 := wires.Left(c.Answers())
	packets := trace.Interrupt()
	shown := 0
	for _, packet := range ofConversation(packets, c, "out") {
		shown += packet.Packets
		await.Same(t, packet.String(), "corrected", packet.Verdict)
	}
	if shown != len(eth1) || len(eth0) != 0 {
		t.Errorf("%d answers are shown, %d left by eth1, %d by eth0", shown, len(eth1), len(eth0))
	}
	in := ofConversation(packets, c, "in")
	if len(in) < 2 || product.OrEmpty(in[0].TCPFlags) != "S" || in[0].Verdict != "new" || in[1].Verdict != "new" {
		t.Errorf("how the connection begins: %v", in)
	}
	for _, packet := range in[2:] {
		await.Same(t, packet.String(), "known", packet.Verdict)
	}
}

// testTraceHost shows what the host starts, and what is not recorded.
func testTraceHost(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	traffic.ServeAt(t, n.Client, netip.AddrPortFrom(n.ClientEth0.Address(f), clientPort))
	trace := p.Trace(func() error {
		askedByHost(t, n, "tcp", f) // just after the start its socket is all that tells who asked
		return nil
	})
	askedByHost(t, n, "tcp", f)
	askedByHost(t, n, "udp", f)
	packets := trace.Interrupt()
	if len(packets) == 0 {
		t.Error("nothing is shown")
	}
	for _, packet := range packets {
		switch {
		case packet.Protocol == "icmpv6": // neighbour discovery is of no concern
		case packet.Direction == "out" && packet.Verdict == "local-origin" && product.OrEmpty(packet.Out.Interface) == "eth0":
		case packet.Direction == "in" && packet.Verdict == "ignored" && product.OrEmpty(packet.Reason) == "answer":
		default:
			t.Errorf("of what the host starts: %s", &packet)
		}
	}
}

// testTraceSend sends a probe: it goes as the kernel routes it.
func testTraceSend(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	wires := wire.Tap(t, n.Server)
	peer, self := n.ClientEth0.Address(f), n.Server.Eth1.Address(f)
	result := p.Expect(0, "trace", "--send", "--peer", peer.String(), "--self", self.String(), "-o", "json")
	lines := product.TracedPackets(t, result.Stdout)
	if len(lines) != 2 {
		t.Fatalf("not a probe and its answer: %s", result)
	}
	out, in := lines[0], lines[1]
	if out.Direction != "out" || out.Verdict != "local-origin" || product.OrEmpty(out.Out.Interface) != "eth0" ||
		product.OrEmpty(out.Out.NextHopMAC) != n.Server.Eth0.Peer().MAC.String() {
		t.Errorf("the probe: %s", &out)
	}
	// The answer goes to the address that asked, wherever the probe left.
	if in.Direction != "in" || in.Verdict != "ignored" || product.OrEmpty(in.Reason) != "answer" || product.OrEmpty(in.InterfaceIn) != "eth1" {
		t.Errorf("its answer: %s", &in)
	}
	wires.WantEth0("the probe", topology.All(topology.From(self), topology.To(peer), topology.EchoRequest))
}

// testTraceOne runs one trace at a time, each from its own beginning.
func testTraceOne(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	ask := func() error { return c.Ask(await.Within(t, await.AnswerTime)) }
	trace := p.Trace(ask)
	if result := p.Expect(1, "trace", "--count", "1"); result.Stderr == "" {
		t.Errorf("a second trace: %s", result)
	}
	// A killed one leaves nothing behind that keeps out the next.
	trace.Signal(unix.SIGKILL)
	trace.WaitEnd()
	for range 10 {
		await.Must(t, ask())
	}
	trace = p.Trace(ask)
	for _, packet := range trace.Interrupt() {
		await.Same(t, "lost before anything was", 0, packet.Lost)
	}
	p.Expect(1, "trace", "--pin-dir", "/sys/fs/bpf/none")
}

// testTraceLost stops the tracer while packets pass: what it cannot show it counts.
func testTraceLost(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	self := netip.AddrPortFrom(n.Server.Eth1.Address(topology.IPv4), traffic.EchoPort)
	// The flood may fill the receive buffer of the echo server, but not the kernel's.
	c := traffic.NewConversation(t, traffic.Ping, n.ClientEth0, self.Addr())
	trace := p.Trace(func() error { return c.Ask(await.Within(t, await.AnswerTime)) })
	trace.Signal(unix.SIGSTOP)
	conn := await.Must1[net.Conn](t)(n.Client.Dial(await.Within(t, await.AnswerTime), "udp", self.String()))
	defer conn.Close()
	const questions = 4000 // of up to three events each: more than there is room for
	for range questions {
		await.Must1[int](t)(conn.Write([]byte("question")))
	}
	trace.Signal(unix.SIGCONT)
	traffic.Ask(t, c)
	await.Eventually(t, "lost events are counted", func() error {
		var lost, shown uint64
		for _, packet := range trace.Packets() {
			shown++
			lost += packet.Lost
		}
		if lost == 0 {
			return fmt.Errorf("%d packets are shown, none are lost", shown)
		}
		return nil
	})
	trace.Interrupt()
}

// testTap captures on the server itself, as an operator does with tcpdump: a moved answer is seen at the interface that
// it leaves by, with the MACs that it leaves with, and nowhere else. docs/guide/troubleshooting.md says so.
func testTap(t *testing.T, n *topology.TwoNIC) {
	for _, f := range traffic.Families {
		eth0, eth1 := wire.Capture(t, n.Server.Eth0), wire.Capture(t, n.Server.Eth1)
		c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
		traffic.Ask(t, c)
		sent := topology.All(c.Answers(), topology.Going(topology.Sent))
		if frames := eth0.Frames(sent); len(frames) != 0 {
			t.Errorf("a moved answer is seen at the interface of the route: %s", wire.Describe(frames))
		}
		moved := topology.All(sent, topology.FromMAC(n.Server.Eth1.MAC), topology.ToMAC(n.Server.Eth1.Peer().MAC))
		if all, right := eth1.Count(sent), eth1.Count(moved); all == 0 || right != all {
			t.Errorf("%d answers are seen at the flow's interface, %d of them with its MACs", all, right)
		}
		if eth1.Count(topology.All(c.Questions(), topology.Going(topology.Received))) == 0 {
			t.Error("no question is seen where it comes in")
		}
	}
}
