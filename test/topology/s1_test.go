// SPDX-License-Identifier: Apache-2.0

package topology_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

var checked = []topology.Policy{topology.StrictSource, topology.Stateful}

func drops(t *testing.T, r *topology.Router) uint64 {
	t.Helper()
	return await.Must1[uint64](t)(r.Drops())
}

// TestS1IsBroken shows what replypath is for: B's answers leave by eth0 to eth0's gateway, and the production router
// drops each of them.
func TestS1IsBroken(t *testing.T) {
	for _, policy := range checked {
		s := traffic.NewS1(t, topology.S1Options{Policy: policy})
		traffic.EachQuestion(t, policy.String(), func(t *testing.T, f topology.Family, kind traffic.Kind) {
			testBroken(t, s, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)))
		})
	}
}

func testBroken(t *testing.T, s *topology.S1, c *traffic.Conversation) {
	wires, arrived := wire.Tap(t, s.B), wire.Capture(t, s.A.Eth1)
	before := drops(t, s.Production)
	if err := wire.AskInVain(t, c, wires.Eth0); err == nil {
		t.Error("the question was answered")
	}
	if n := wires.Eth1.Count(topology.All(c.Questions(), topology.Going(topology.Sent))); n == 0 {
		t.Error("no question reached eth1")
	}
	wrong := wires.WantEth0(c.String(), c.Answers())
	if n := arrived.Count(c.Answers()); n != 0 {
		t.Errorf("%d answers reached A", n)
	}
	dropped := drops(t, s.Production) - before
	// B goes on to repeat the SYN-ACK of this or an earlier subtest.
	own := topology.OneOf(topology.From(s.B.Eth1.Address(topology.IPv4)), topology.From(s.B.Eth1.Address(topology.IPv6)))
	most := wires.Eth0.Count(own)
	if dropped < uint64(len(wrong)) || dropped > uint64(most) {
		t.Errorf("the router dropped %d packets, B sent %d to %d", dropped, len(wrong), most)
	}
}

// TestS1IsOtherwiseRight shows that nothing but the routers' check stands in the way of the answers, and that a route
// on B mends it.
func TestS1IsOtherwiseRight(t *testing.T) {
	testAnswered(t, "no source check", traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource}), false)
	for _, policy := range checked {
		routed := traffic.NewS1(t, topology.S1Options{Policy: policy})
		ruled := traffic.NewS1(t, topology.S1Options{Policy: policy})
		const table = 100
		for _, f := range routed.Families() {
			await.Must(t, routed.B.AddRoute(routed.ReplicationRoute(f)))
			eth1 := ruled.B.Eth1
			await.Must(t, ruled.B.AddRoute(topology.Route{Via: eth1.Gateway(f), Table: table}))
			await.Must(t, ruled.B.AddRule(netip.PrefixFrom(eth1.Address(f), eth1.Address(f).BitLen()), table))
		}
		testAnswered(t, "route and "+policy.String(), routed, true)
		testAnswered(t, "rule and "+policy.String(), ruled, true)
	}
}

// testAnswered asks all questions and looks by which interface B answers. Those of the interfaces with the default
// routes are answered whoever begins.
func testAnswered(t *testing.T, name string, s *topology.S1, byEth1 bool) {
	for _, f := range s.Families() {
		traffic.Serve(t, s.A.Host, s.A.Eth0.Address(f))
		traffic.Serve(t, s.B.Host, s.B.Eth0.Address(f))
	}
	traffic.EachQuestion(t, name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wire.WantBy(t, s.B, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)), byEth1)
		traffic.Ask(t, traffic.NewConversation(t, kind, s.A.Eth0, s.B.Eth0.Address(f)))
		traffic.Ask(t, traffic.NewConversation(t, kind, s.B.Eth0, s.A.Eth0.Address(f)))
	})
	for _, r := range []*topology.Router{s.Production, s.Replication} {
		if n := drops(t, r); n != 0 {
			t.Errorf("%s: the %s router dropped %d packets", name, r.Name, n)
		}
	}
}

// TestS1WildcardUDP shows the second way in which the answer goes wrong: a socket bound to no address answers from the
// one that the route picks.
func TestS1WildcardUDP(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{})
	const port = 4007
	traffic.ServeAt(t, s.B.Host, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	for _, f := range s.Families() {
		t.Run(f.String(), func(t *testing.T) {
			c, arrived := traffic.NewConversation(t, traffic.UDP, s.A.Eth1, s.B.Eth1.Address(f)), wire.Capture(t, s.A.Eth1)
			c.Self = netip.AddrPortFrom(c.Self.Addr(), port)
			other := topology.All(topology.UDP, topology.From(s.B.Eth0.Address(f)))
			if err := wire.AskUntilLost(t, c, arrived, other); err == nil {
				t.Error("the question was answered")
			}
		})
	}
}

func TestS1WithoutIPv6(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{NoIPv6: true, ProductionMTU: 9000, ReplicationMTU: 1400})
	if f := s.Families(); len(f) != 1 || f[0] != topology.IPv4 {
		t.Errorf("families are %v", f)
	}
	await.Must(t, s.B.AddRoute(s.ReplicationRoute(topology.IPv4)))
	traffic.Ask(t, traffic.NewConversation(t, traffic.Ping, s.A.Eth1, s.B.Eth1.Address(topology.IPv4)))
	for nic, mtu := range map[*topology.Interface]int{
		s.A.Eth0: 9000, s.B.Eth0.Peer(): 9000, s.A.Eth1: 1400, s.B.Eth1.Peer(): 1400,
	} {
		link, err := nic.Link()
		await.Must(t, err)
		if got := link.Attrs().MTU; got != mtu {
			t.Errorf("%s on %s has mtu %d, not %d", nic.Name, nic.Host.Name, got, mtu)
		}
	}
}

// TestS1ColdGateway shows why the ready-made networks resolve the servers' gateways: an answer with the wrong source
// lends it to the ARP request, which a strict router does not answer, and so it never leaves at all.
func TestS1ColdGateway(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{ColdGateways: true})
	production := wire.Capture(t, s.B.Eth0.Peer())
	asked := s.B.Eth1.Address(topology.IPv4)
	ctx, cancel := context.WithCancel(await.Within(t, await.AnswerTime))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- traffic.NewConversation(t, traffic.Ping, s.A.Eth1, asked).Ask(ctx) }()

	// The kernel asks three times, a second apart; the second time shows that the first was in vain.
	requests, err := production.WaitCount(ctx, 2, isARP(layers.ARPRequest))
	await.Must(t, err)
	for _, frame := range requests {
		arp := frame.Packet().Layer(layers.LayerTypeARP).(*layers.ARP)
		if source, _ := netip.AddrFromSlice(arp.SourceProtAddress); source != asked {
			t.Errorf("the request came from %s, not from %s", source, asked)
		}
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the ping was answered")
	}
	if n := production.Count(topology.OneOf(isARP(layers.ARPReply), topology.EchoReply)); n != 0 {
		t.Errorf("%d answers, to the ARP request or to the ping", n)
	}
}

// isARP matches ARP packets with an operation.
func isARP(operation uint16) topology.Filter {
	return func(f *topology.Frame) bool {
		arp, ok := f.Packet().Layer(layers.LayerTypeARP).(*layers.ARP)
		return ok && arp.Operation == operation
	}
}
