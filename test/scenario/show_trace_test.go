// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// ofConversation are the packets of one conversation in one direction.
func ofConversation(packets []harness.TracedPacket, c *harness.Conversation, direction string) []harness.TracedPacket {
	var found []harness.TracedPacket
	for _, p := range packets {
		if p.Direction == direction && p.Peer == c.Peer.Addr().String() && p.PeerPort == c.Peer.Port() {
			found = append(found, p)
		}
	}
	return found
}

// TestTrace compares what trace shows with the frames that leave, one by one.
func TestTrace(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{
		Policy: topology.AnySource, Offloads: topology.WireExact,
	})
	server := n.Server
	p := harness.On(t, server.Host)
	p.Start().Kill()
	for _, f := range n.Families() {
		harness.Serve(t, server.Host, server.Eth0.Address(f))
		for _, kind := range harness.Kinds {
			for _, mode := range []string{"enforce", "observe"} {
				for _, at := range []*topology.Interface{server.Eth0, server.Eth1} {
					t.Run(fmt.Sprintf("%s/%s/%s/%s", f, kind, mode, at.Name), func(t *testing.T) {
						p := p.In(t)
						p.Expect(0, "mode", mode)
						testTrace(t, n, p, harness.NewConversation(t, kind, n.ClientEth0, at.Address(f)), at, mode)
					})
				}
			}
		}
	}
}

func testTrace(t *testing.T, n *topology.TwoNIC, p *harness.Product, c *harness.Conversation, at *topology.Interface, mode string) {
	wires := harness.Tap(t, n.Server)
	ask := func() error { return c.Ask(harness.Within(t, harness.AnswerTime)) }
	harness.Must(t, ask())
	frames := len(wires.Eth0.Frames(c.Answers())) + len(wires.Eth1.Frames(c.Answers()))
	trace := p.Trace(ask, "--peer", c.Peer.Addr().String(), "--self", c.Self.Addr().String())
	harness.Must(t, ask())
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
		if harness.OrEmpty(packet.InterfaceIn) != at.Name || packet.Verdict != "known" ||
			harness.OrEmpty(packet.SourceMAC) != at.Peer().MAC.String() || packet.SeenLeaving != nil {
			t.Errorf("a question: %s", &packet)
		}
	}
	for _, packet := range leaving {
		if packet.Verdict != verdict || harness.OrEmpty(packet.Reason) != reason ||
			harness.OrEmpty(packet.InterfaceIn) != at.Name || harness.OrEmpty(packet.Kernel.Interface) != "eth0" ||
			harness.OrEmpty(packet.Kernel.NextHopMAC) != n.Server.Eth0.Peer().MAC.String() ||
			harness.OrEmpty(packet.Out.Interface) != out.Name || harness.OrEmpty(packet.Out.NextHopMAC) != out.Peer().MAC.String() ||
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
	if out == n.Server.Eth1 {
		wires.WantEth1("as traced", c.Answers())
	} else {
		wires.WantEth0("as traced", c.Answers())
	}
}

// TestTraceExact counts: as many packets are shown as leave.
func TestTraceExact(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{
		Policy: topology.AnySource, Offloads: topology.WireExact,
	})
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			first := harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
			trace := p.In(t).Trace(func() error { return first.Ask(harness.Within(t, harness.AnswerTime)) },
				"--peer", netip.PrefixFrom(first.Peer.Addr(), 8).Masked().String())
			wires := harness.Tap(t, n.Server)
			c := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
			for range 20 {
				harness.Must(t, c.AskFor(harness.Within(t, harness.AnswerTime), 5000))
			}
			eth0, eth1 := wires.Left(c.Answers())
			packets := trace.Interrupt()
			out := ofConversation(packets, c, "out")
			shown := 0
			for _, packet := range out {
				shown += packet.Packets
			}
			if shown != len(eth1) || len(eth0) != 0 {
				t.Errorf("%d answers are shown, %d left by eth1, %d by eth0", shown, len(eth1), len(eth0))
			}
			in := ofConversation(packets, c, "in")
			if len(in) < 2 || harness.OrEmpty(in[0].TCPFlags) != "S" || in[0].Verdict != "new" || in[1].Verdict != "new" {
				t.Errorf("how the connection begins: %v", in)
			}
			for _, packet := range in[2:] {
				if packet.Verdict != "known" {
					t.Errorf("on the way: %s", &packet)
				}
			}
			for i := range out {
				if out[i].Verdict != "corrected" {
					t.Errorf("an answer: %s", &out[i])
				}
			}
		})
	}
}

// TestTraceHost shows what the host starts, and what is not recorded.
func TestTraceHost(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	p := harness.On(t, server.Host)
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			harness.Serve(t, n.Client, n.ClientEth0.Address(f))
			to := netip.AddrPortFrom(n.ClientEth0.Address(f), harness.EchoPort).String()
			from := topology.FromAddress(netip.AddrPortFrom(server.Eth1.Address(f), 0))
			ask := func(network string) error {
				conn, err := server.Host.Dial(harness.Within(t, harness.AnswerTime), network, to, from)
				if err != nil {
					return err
				}
				// Just after the start the socket is all that tells who asked.
				t.Cleanup(func() { conn.Close() })
				if _, err = conn.Write([]byte("question")); err == nil {
					_, err = conn.Read(make([]byte, 100))
				}
				return err
			}
			trace := p.In(t).Trace(func() error { return ask("tcp") })
			harness.Must(t, ask("tcp"))
			harness.Must(t, ask("udp"))
			packets := trace.Interrupt()
			if len(packets) == 0 {
				t.Error("nothing is shown")
			}
			for _, packet := range packets {
				if packet.Protocol == "icmpv6" { // neighbour discovery is of no concern
					continue
				}
				switch {
				case packet.Direction == "out" && packet.Verdict == "local-origin" && harness.OrEmpty(packet.Out.Interface) == "eth0":
				case packet.Direction == "in" && packet.Verdict == "ignored" && harness.OrEmpty(packet.Reason) == "answer":
				default:
					t.Errorf("of what the host starts: %s", &packet)
				}
			}
		})
	}
}

// TestTraceSend sends a probe: it goes as the kernel routes it.
func TestTraceSend(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	p := harness.On(t, server.Host)
	p.Start().Kill()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			wires := harness.Tap(t, server)
			peer, self := n.ClientEth0.Address(f), server.Eth1.Address(f)
			result := p.In(t).Expect(0, "trace", "--send", "--peer", peer.String(), "--self", self.String(), "-o", "json")
			lines := harness.TracedPackets(t, result.Stdout)
			if len(lines) != 2 {
				t.Fatalf("not a probe and its answer: %s", result)
			}
			out, in := lines[0], lines[1]
			if out.Direction != "out" || out.Verdict != "local-origin" || harness.OrEmpty(out.Out.Interface) != "eth0" ||
				harness.OrEmpty(out.Out.NextHopMAC) != server.Eth0.Peer().MAC.String() {
				t.Errorf("the probe: %s", &out)
			}
			// The answer goes to the address that asked, wherever the probe left.
			if in.Direction != "in" || in.Verdict != "ignored" || harness.OrEmpty(in.Reason) != "answer" || harness.OrEmpty(in.InterfaceIn) != "eth1" {
				t.Errorf("its answer: %s", &in)
			}
			wires.WantEth0("the probe", topology.All(topology.From(self), topology.To(peer), topology.EchoRequest))
		})
	}
	t.Run("nobody answers", func(t *testing.T) {
		result := p.In(t).Expect(0, "trace", "--send", "--peer", "10.9.0.200", "--self", server.Eth1.Address(topology.IPv4).String(), "-o", "json")
		lines := harness.TracedPackets(t, result.Stdout)
		if len(lines) != 1 || lines[0].Verdict != "local-origin" || result.Stderr != "replypath: no answer within 3s\n" {
			t.Errorf("a probe without an answer: %s", result)
		}
	})
	t.Run("not an own address", func(t *testing.T) {
		p.In(t).Expect(1, "trace", "--send", "--peer", n.ClientEth0.Address(topology.IPv4).String(), "--self", "192.0.2.1")
	})
}

// TestTraceOne runs one trace at a time, each from its own beginning.
func TestTraceOne(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	c := harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	ask := func() error { return c.Ask(harness.Within(t, harness.AnswerTime)) }
	trace := p.Trace(ask)
	if result := p.Expect(1, "trace", "--count", "1"); result.Stderr == "" {
		t.Errorf("a second trace: %s", result)
	}
	// A killed one leaves nothing behind that keeps out the next.
	trace.Signal(unix.SIGKILL)
	trace.WaitEnd()
	for range 10 {
		harness.Must(t, ask())
	}
	trace = p.Trace(ask)
	for _, packet := range trace.Interrupt() {
		if packet.Lost != 0 {
			t.Errorf("lost before anything was: %s", &packet)
		}
	}
	p.Expect(1, "trace", "--pin-dir", "/sys/fs/bpf/none")
}

// TestTraceLost stops the tracer while packets pass: what it cannot show it
// counts.
func TestTraceLost(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	self := netip.AddrPortFrom(n.Server.Eth1.Address(topology.IPv4), harness.EchoPort)
	// The flood may fill the receive buffer of the echo server, but not the kernel's.
	c := harness.NewConversation(t, harness.Ping, n.ClientEth0, self.Addr())
	trace := p.Trace(func() error { return c.Ask(harness.Within(t, harness.AnswerTime)) })
	trace.Signal(unix.SIGSTOP)
	conn := harness.Must1[net.Conn](t)(n.Client.Dial(harness.Within(t, harness.AnswerTime), "udp", self.String()))
	defer conn.Close()
	const questions = 4000 // of up to three events each: more than there is room for
	for range questions {
		harness.Must1[int](t)(conn.Write([]byte("question")))
	}
	trace.Signal(unix.SIGCONT)
	harness.Ask(t, c)
	harness.Eventually(t, "lost events are counted", func() error {
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
