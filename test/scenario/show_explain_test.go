// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// explained runs `replypath explain` for the answers of a conversation.
func explained(t *testing.T, p *harness.Product, c *harness.Conversation, args ...string) *harness.Explanation {
	t.Helper()
	peer, self := c.Peer.String(), c.Self.String()
	if c.Self.Port() == 0 {
		self = c.Self.Addr().String()
	}
	return p.In(t).Explain(append([]string{"--peer", peer, "--self", self, "--protocol", c.Protocol()}, args...)...)
}

// wantVerdict wants a verdict with a reason, "" for none.
func wantVerdict(t *testing.T, e *harness.Explanation, verdict, reason string) {
	t.Helper()
	if got := harness.OrEmpty(e.Reason); e.Verdict != verdict || got != reason {
		t.Errorf("explain says %s %q, not %s %q: %s", e.Verdict, got, verdict, reason, e)
	}
}

// wantTrue asks once more and wants the answers to leave as explain says.
func wantTrue(t *testing.T, e *harness.Explanation, server *topology.Server, c *harness.Conversation) {
	t.Helper()
	wires := harness.Tap(t, server)
	harness.Ask(t, c)
	eth0, eth1 := wires.Left(c.Answers())
	var left []*topology.Frame
	switch harness.OrEmpty(e.LeavesBy) {
	case "eth0":
		left = wires.WantEth0("as explained", c.Answers())
	case "eth1":
		left = wires.WantEth1("as explained", c.Answers())
	default:
		t.Errorf("explain has the packet leave nowhere: %s; captured: %s, %s", e, harness.Describe(eth0), harness.Describe(eth1))
		return
	}
	want := e.Kernel.NextHopMAC
	if e.Verdict == "corrected" {
		want = e.Replypath.NextHopMAC
	}
	for _, frame := range left {
		if frame.DestinationMAC.String() != harness.OrEmpty(want) {
			t.Errorf("explain says MAC %s: %s", harness.OrEmpty(want), frame)
		}
	}
}

// TestExplain compares what explain says with the frames that leave, for each
// kind of question and verdict, with and without a daemon.
func TestExplain(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	p := harness.On(t, server.Host)
	p.Start().Kill()
	for _, f := range n.Families() {
		harness.Serve(t, server.Host, server.Eth0.Address(f))
		for _, kind := range harness.Kinds {
			for _, at := range []*topology.Interface{server.Eth0, server.Eth1} {
				t.Run(fmt.Sprintf("%s/%s/%s", f, kind, at.Name), func(t *testing.T) {
					c := harness.NewConversation(t, kind, n.ClientEth0, at.Address(f))
					e := explained(t, p, c)
					wantVerdict(t, e, "no-flow", "")
					if harness.OrEmpty(e.LeavesBy) != "eth0" || harness.OrEmpty(e.Kernel.Gateway) != server.Eth0.Gateway(f).String() {
						t.Errorf("without a flow: %s", e)
					}
					harness.Ask(t, c)
					e = explained(t, p, c)
					wantVerdict(t, e, map[*topology.Interface]string{server.Eth0: "already-right", server.Eth1: "corrected"}[at], "")
					if harness.OrEmpty(e.Kernel.Interface) != "eth0" || harness.OrEmpty(e.Replypath.Interface) != at.Name {
						t.Errorf("interfaces: %s", e)
					}
					wantTrue(t, e, server, c)
				})
			}
		}
	}
}

// TestExplainIfItCameIn: without a flow, --interface tells what becomes of the reply if the question
// comes in there, as the frames show afterwards. Of a recorded flow it changes nothing.
func TestExplainIfItCameIn(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Eth1Metric: 2000})
	server := n.Server
	harness.Shell(t, server.Host, "ip link add nic9 type veth peer name nic8")
	p := harness.On(t, server.Host)
	p.Start()
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			t.Run(fmt.Sprintf("%s/%s", f, kind), func(t *testing.T) {
				c := harness.NewConversation(t, kind, n.ClientEth0, server.Eth1.Address(f))
				wantVerdict(t, explained(t, p, c), "no-flow", "")
				e := explained(t, p, c, "--interface", "eth0")
				wantVerdict(t, e, "already-right", "")
				wantDetail(t, e, "no flow is recorded; if it arrived by eth0: ")
				harness.Eventually(t, "the gateway of eth1 is known", func() error {
					if e = explained(t, p, c, "--interface", "eth1"); e.Replypath.NextHopMAC == nil {
						return fmt.Errorf("no next hop: %s", e)
					}
					return nil
				})
				wantVerdict(t, e, "corrected", "")
				wantDetail(t, e, "no flow is recorded; if it arrived by eth1: ")
				if harness.OrEmpty(e.Kernel.Interface) != "eth0" || harness.OrEmpty(e.Replypath.Interface) != "eth1" {
					t.Errorf("interfaces: %s", e)
				}
				wantVerdict(t, explained(t, p, c, "--interface", "nic9"), "no-flow", "unmanaged")
				wantTrue(t, e, server, c)

				for _, name := range []string{"eth0", "eth1"} {
					e := explained(t, p, c, "--interface", name)
					wantVerdict(t, e, "corrected", "")
					if harness.OrEmpty(e.LeavesBy) != "eth1" {
						t.Errorf("of a flow that came in by eth1, asked about %s: %s", name, e)
					}
					if name == "eth0" {
						wantDetail(t, e, "; the flow arrived by eth1, not by eth0")
					}
					wantTrue(t, e, server, c)
				}
			})
		}
	}
	p.Expect(0, "mode", "observe")
	c := harness.NewConversation(t, harness.UDP, n.ClientEth0, server.Eth1.Address(topology.IPv4))
	wantVerdict(t, explained(t, p, c, "--interface", "eth1"), "fallback", "observe")
	p.Expect(1, "explain", "--peer", c.Peer.String(), "--self", c.Self.String(), "--interface", "eht1")
}

// TestExplainIfItCameInUnknown: where any router may send the frame, its MAC is not known before.
func TestExplainIfItCameInUnknown(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		c := harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
		e := explained(t, p, c, "--interface", "eth1")
		wantVerdict(t, e, "corrected", "")
		if e.Replypath.NextHopMAC != nil || harness.OrEmpty(e.LeavesBy) != "eth1" {
			t.Errorf("without a known gateway: %s", e)
		}
		harness.Ask(t, c)
		if e := explained(t, p, c, "--interface", "eth1"); e.Replypath.NextHopMAC == nil {
			t.Errorf("with a flow: %s", e)
		}
	}
}

// wantDetail wants words in the sentence for people.
func wantDetail(t *testing.T, e *harness.Explanation, words string) {
	t.Helper()
	if !strings.Contains(e.Detail, words) {
		t.Errorf("it does not say %q: %s", words, e)
	}
}

// TestExplainFallback has replypath leave replies alone, for every reason that a
// host with two NICs has.
func TestExplainFallback(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, ReplicationMTU: 1400})
	server := n.Server
	p := harness.On(t, server.Host)
	p.Start("--config", harness.WriteConfig(t, "fallback_route: false\n"))
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			c := harness.NewConversation(t, harness.UDP, n.ClientEth0, server.Eth1.Address(f))
			harness.Ask(t, c)

			p.Expect(0, "mode", "observe")
			e := explained(t, p, c)
			wantVerdict(t, e, "fallback", "observe")
			wantTrue(t, e, server, c)
			p.Expect(0, "mode", "enforce")

			route := topology.Route{Via: server.Eth0.Gateway(f)}
			harness.Must(t, server.Host.RemoveRoute(route))
			e = explained(t, p, c)
			wantVerdict(t, e, "fallback", "no_route")
			if e.LeavesBy != nil || e.Kernel.Interface != nil || e.Kernel.Error == nil {
				t.Errorf("without a route: %s", e)
			}
			harness.Must(t, server.Host.AddRoute(route))
			e = explained(t, p, c)
			wantVerdict(t, e, "corrected", "")
			wantTrue(t, e, server, c)
		})
	}
}

// TestExplainOwnInterface has the kernel choose the flow's interface, but another
// next hop there.
func TestExplainOwnInterface(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	p := harness.On(t, server.Host)
	config := filepath.Join(t.TempDir(), "replypath.yaml")
	harness.Must(t, os.WriteFile(config, []byte("interfaces: [{name: eth0}, {name: eth1, next_hop: last-hop}]\n"), 0o644))
	p.Start("--config", config)
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			c := harness.NewConversation(t, harness.UDP, n.ClientEth0, server.Eth1.Address(f))
			other := server.Eth1.Gateway(f).Next().Next()
			harness.Must(t, server.Eth1.AddNeighbour(other, net.HardwareAddr{2, 0, 0, 0, 0x77, 0}))
			network := netip.PrefixFrom(n.ClientEth0.Address(f), map[topology.Family]int{topology.IPv4: 24, topology.IPv6: 64}[f]).Masked()
			harness.Must(t, server.Host.AddRoute(topology.Route{Destination: network, Via: other}))
			harness.Ask(t, c)
			e := explained(t, p, c)
			wantVerdict(t, e, "corrected", "")
			if harness.OrEmpty(e.Kernel.Interface) != "eth1" || harness.OrEmpty(e.Kernel.Gateway) != other.String() {
				t.Errorf("the kernel's choice: %s", e)
			}
			wantTrue(t, e, server, c)
			p.In(t).Expect(0, "mode", "observe")
			wantVerdict(t, explained(t, p, c), "fallback", "observe")
			p.In(t).Expect(0, "mode", "enforce")
		})
	}
}

// TestExplainBound asks about sockets that are bound to the device of the route:
// the program finds out by itself.
func TestExplainBound(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Eth1Metric: 100})
	server := n.Server
	p := harness.On(t, server.Host)
	p.Start()
	for _, f := range n.Families() {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(f.String()+"/"+network, func(t *testing.T) {
				ctx := harness.Within(t, harness.AnswerTime)
				self := netip.AddrPortFrom(server.Eth1.Address(f), 6000)
				if network == "tcp" {
					l := harness.Must1[net.Listener](t)(server.Host.Listen(ctx, network, self.String(), topology.BindToDevice("eth1")))
					defer l.Close()
				} else {
					l := harness.Must1[net.PacketConn](t)(server.Host.ListenPacket(ctx, network, self.String(), topology.BindToDevice("eth1")))
					defer l.Close()
				}
				conn := harness.Must1[net.Conn](t)(n.Client.Dial(ctx, network, self.String()))
				defer conn.Close()
				harness.Must1[int](t)(conn.Write([]byte("question")))
				peer := netip.MustParseAddrPort(conn.LocalAddr().String())
				harness.Eventually(t, "the flow is known", func() error {
					e := p.In(t).Explain("--peer", peer.String(), "--self", self.String(), "--protocol", network)
					if e.Verdict != "already-right" || harness.OrEmpty(e.Kernel.Interface) != "eth1" {
						return fmt.Errorf("the kernel sends by the bound device: %s", e)
					}
					return nil
				})
			})
		}
	}
}

// TestExplainBoundListener: a listener that is bound to the other device sends nothing. The RST of the port that is closed
// here goes by the flow's interface.
func TestExplainBoundListener(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	p := harness.On(t, server.Host)
	p.Start()
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			ctx := harness.Within(t, harness.AnswerTime)
			self := netip.AddrPortFrom(server.Eth1.Address(f), 6001)
			l := harness.Must1[net.Listener](t)(server.Host.Listen(ctx, "tcp", self.String(), topology.BindToDevice("eth0")))
			defer l.Close()
			wires := harness.Tap(t, server)
			if conn, err := n.Client.Dial(ctx, "tcp", self.String()); err == nil {
				conn.Close()
				t.Fatal("somebody has accepted a connection by eth1")
			}
			wires.WantEth1("the RST", topology.All(topology.From(self.Addr()), topology.Flags(topology.RST, topology.RST)))
			e := p.In(t).Explain("--peer", n.ClientEth0.Address(f).String(), "--self", self.String(), "--protocol", "tcp")
			wantVerdict(t, e, "corrected", "")
		})
	}
}

// TestExplainWhy asks about packets that belong to no flow.
func TestExplainWhy(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	server := n.Server
	p := harness.On(t, server.Host)
	config := filepath.Join(t.TempDir(), "replypath.yaml")
	harness.Must(t, os.WriteFile(config, []byte("exclude: [{protocol: udp, self_port: 51820}, 10.9.0.77, 2001:db8:9::77]\n"), 0o644))
	p.Start("--config", config)
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			client, own := n.ClientEth0.Address(f), server.Eth1.Address(f)
			asked := askedByHost(t, n, f)
			stranger := map[topology.Family]string{topology.IPv4: "10.9.0.77", topology.IPv6: "2001:db8:9::77"}[f]
			linkLocal := map[topology.Family]string{topology.IPv4: "169.254.0.1", topology.IPv6: "fe80::1"}[f]
			for _, question := range []struct {
				peer, self, protocol string
				verdict, reason      string
			}{
				{client.String(), own.String(), "", "no-flow", ""},
				{client.String(), own.String(), "gre", "no-flow", "protocol"},
				{netip.AddrPortFrom(client, 67).String(), netip.AddrPortFrom(own, 67).String(), "udp", "no-flow", "protocol"},
				{own.String(), own.String(), "tcp", "no-flow", "source"},
				{linkLocal, own.String(), "tcp", "no-flow", "source"},
				{own.String(), client.String(), "tcp", "no-flow", "not_own"},
				{stranger, own.String(), "tcp", "excluded", ""},
				{client.String(), netip.AddrPortFrom(own, 51820).String(), "udp", "excluded", ""},
				{client.String(), netip.AddrPortFrom(own, 51820).String(), "tcp", "no-flow", ""},
				{asked.peer, asked.self, "udp", "local-origin", ""},
				{asked.peer, asked.self, "", "local-origin", ""},
				{asked.tcpPeer, asked.tcpSelf, "tcp", "local-origin", ""},
			} {
				args := []string{"--peer", question.peer, "--self", question.self}
				if question.protocol != "" {
					args = append(args, "--protocol", question.protocol)
				}
				wantVerdict(t, p.In(t).Explain(args...), question.verdict, question.reason)
			}
		})
	}
}

type hostAsked struct{ peer, self, tcpPeer, tcpSelf string }

// askedByHost has the server ask the client by UDP and connect to it by TCP.
func askedByHost(t *testing.T, n *topology.TwoNIC, f topology.Family) (a hostAsked) {
	t.Helper()
	ctx := harness.Within(t, harness.AnswerTime)
	harness.Serve(t, n.Client, n.ClientEth0.Address(f))
	to := netip.AddrPortFrom(n.ClientEth0.Address(f), harness.EchoPort).String()
	for network, ends := range map[string][2]*string{"udp": {&a.peer, &a.self}, "tcp": {&a.tcpPeer, &a.tcpSelf}} {
		from := topology.FromAddress(netip.AddrPortFrom(n.Server.Eth1.Address(f), 0))
		conn := harness.Must1[net.Conn](t)(n.Server.Host.Dial(ctx, network, to, from))
		t.Cleanup(func() { conn.Close() })
		harness.Must1[int](t)(conn.Write([]byte("question")))
		harness.Must1[int](t)(conn.Read(make([]byte, 100)))
		*ends[0], *ends[1] = conn.RemoteAddr().String(), conn.LocalAddr().String()
	}
	return a
}

// TestExplainSeveral leaves the ports open: all flows between two addresses are
// explained, the latest first.
func TestExplainSeveral(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	ctx, cancel := context.WithTimeout(t.Context(), harness.AnswerTime)
	defer cancel()
	var last *harness.Conversation
	for _, kind := range []harness.Kind{harness.TCP, harness.UDP, harness.Ping} {
		last = harness.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
		harness.Must(t, last.Ask(ctx))
	}
	e := p.Explain("--peer", last.Peer.Addr().String(), "--self", last.Self.Addr().String())
	if len(e.Others) != 2 {
		t.Errorf("%d flows besides the first: %s", len(e.Others), e)
	}
	for _, explanation := range append(e.Others, *e) {
		wantVerdict(t, &explanation, "corrected", "")
	}
	e = p.Explain("--peer", last.Peer.Addr().String(), "--self", last.Self.Addr().String(), "--limit", "2")
	if len(e.Others) != 1 || e.Matches != 3 {
		t.Errorf("with --limit 2: %s", e)
	}
	e = p.Explain("--peer", last.Peer.Addr().String(), "--self", last.Self.Addr().String(), "--protocol", "tcp")
	if len(e.Others) != 0 || harness.OrEmpty(e.Protocol) != "tcp" {
		t.Errorf("the only TCP connection: %s", e)
	}
}
