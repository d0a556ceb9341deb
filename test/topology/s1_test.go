// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bytes"
	"context"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// question is a way to ask a server for an answer.
type question struct {
	name   string
	ask    func(ctx context.Context, from *Host, to netip.Addr) error
	answer Filter
}

var questions = []question{
	{"ping", askPing, EchoReply},
	{"tcp", func(ctx context.Context, h *Host, to netip.Addr) error { return ask(ctx, h, "tcp", to) }, TCP},
	{"udp", func(ctx context.Context, h *Host, to netip.Addr) error { return ask(ctx, h, "udp", to) }, UDP},
}

// serveAll has the host answer all questions at an address.
func serveAll(t *testing.T, h *Host, address netip.Addr) {
	t.Helper()
	serveTCP(t, h, address)
	serveUDP(t, h, address)
}

// eachQuestion runs a subtest for each family and question.
func eachQuestion(t *testing.T, families []Family, run func(t *testing.T, f Family, q question)) {
	for _, f := range families {
		for _, q := range questions {
			t.Run(f.String()+"/"+q.name, func(t *testing.T) { run(t, f, q) })
		}
	}
}

// expectAnswer fails the test unless the question is answered.
func expectAnswer(t *testing.T, q question, from *Host, to netip.Addr) {
	t.Helper()
	if err := q.ask(within(t, answerTime), from, to); err != nil {
		t.Errorf("no answer from %s: %v", to, err)
	}
}

// TestS1IsBroken shows what replypath is for: B's answers leave by eth0 to eth0's gateway, and the production router
// drops each of them.
func TestS1IsBroken(t *testing.T) {
	for _, policy := range []Policy{StrictSource, Stateful} {
		t.Run(policy.String(), func(t *testing.T) {
			s := newS1(t, S1Options{Policy: policy})
			for _, f := range s.Families() {
				serveAll(t, s.B.Host, s.B.Eth1.Address(f))
			}
			eachQuestion(t, s.Families(), func(t *testing.T, f Family, q question) {
				testBroken(t, s, f, q)
			})
		})
	}
}

func testBroken(t *testing.T, s *S1, f Family, q question) {
	production := capture(t, s.B.Eth0.Peer())
	replication := capture(t, s.B.Eth1.Peer())
	arrived := capture(t, s.A.Eth1)
	before := must1[uint64](t)(s.Production.Drops())
	asker, asked := s.A.Eth1.Address(f), s.B.Eth1.Address(f)

	if err := askInVain(t, q, s.A.Host, asked, production); err == nil {
		t.Error("the question was answered")
	}

	answers := All(q.answer, From(asked), To(asker))
	if n := replication.Count(All(Between(asker, asked), Going(Sent))); n == 0 {
		t.Error("no question reached eth1")
	}
	if n := replication.Count(answers); n != 0 {
		t.Errorf("%d answers left by eth1", n)
	}
	wrong := production.Frames(answers)
	if len(wrong) == 0 {
		t.Fatal("no answer left by eth0")
	}
	for _, frame := range wrong {
		if frame.Direction != Received || !bytes.Equal(frame.SourceMAC, s.B.Eth0.MAC) ||
			!bytes.Equal(frame.DestinationMAC, s.B.Eth0.Peer().MAC) {
			t.Errorf("not from eth0 to its gateway: %s", frame)
		}
	}
	if n := arrived.Count(answers); n != 0 {
		t.Errorf("%d answers reached A", n)
	}
	drops := must1[uint64](t)(s.Production.Drops()) - before
	for _, c := range []*Capture{production, replication, arrived} {
		must(t, c.Stop())
	}
	// B goes on to repeat the SYN-ACK of this or an earlier subtest.
	most := production.Count(OneOf(From(s.B.Eth1.Address(IPv4)), From(s.B.Eth1.Address(IPv6))))
	if drops < uint64(len(wrong)) || drops > uint64(most) {
		t.Errorf("the router dropped %d packets, B sent %d to %d", drops, len(wrong), most)
	}
}

// TestS1IsOtherwiseRight shows that nothing but the routers' check stands in the way of the answers, and that a route
// on B mends it.
func TestS1IsOtherwiseRight(t *testing.T) {
	t.Run("no source check", func(t *testing.T) {
		testAnswered(t, newS1(t, S1Options{Policy: AnySource}), false)
	})
	for _, policy := range []Policy{StrictSource, Stateful} {
		t.Run("route and "+policy.String(), func(t *testing.T) {
			s := newS1(t, S1Options{Policy: policy})
			for _, f := range s.Families() {
				must(t, s.B.AddRoute(s.ReplicationRoute(f)))
			}
			testAnswered(t, s, true)
		})
		t.Run("rule and "+policy.String(), func(t *testing.T) {
			s := newS1(t, S1Options{Policy: policy})
			const table = 100
			for _, f := range s.Families() {
				must(t, s.B.AddRoute(Route{Via: s.B.Eth1.Gateway(f), Table: table}))
				address := s.B.Eth1.Address(f)
				must(t, s.B.AddRule(netip.PrefixFrom(address, address.BitLen()), table))
			}
			testAnswered(t, s, true)
		})
	}
}

// testAnswered asks all questions and looks by which interface B answers.
func testAnswered(t *testing.T, s *S1, byEth1 bool) {
	for _, f := range s.Families() {
		serveAll(t, s.B.Host, s.B.Eth1.Address(f))
	}
	eachQuestion(t, s.Families(), func(t *testing.T, f Family, q question) {
		production := capture(t, s.B.Eth0.Peer())
		replication := capture(t, s.B.Eth1.Peer())
		asked := s.B.Eth1.Address(f)
		expectAnswer(t, q, s.A.Host, asked)
		answers := All(q.answer, From(asked))
		if byEth0 := production.Count(answers); (byEth0 > 0) == byEth1 {
			t.Errorf("%d answers left by eth0", byEth0)
		}
		if n := replication.Count(answers); (n > 0) != byEth1 {
			t.Errorf("%d answers left by eth1", n)
		}
	})
	for _, r := range []*Router{s.Production, s.Replication} {
		if n := must1[uint64](t)(r.Drops()); n != 0 {
			t.Errorf("the %s router dropped %d packets", r.Name, n)
		}
	}
}

// TestS1ProductionNetwork shows that the interfaces with the default routes reach each other, whoever begins.
func TestS1ProductionNetwork(t *testing.T) {
	for _, policy := range []Policy{StrictSource, Stateful} {
		t.Run(policy.String(), func(t *testing.T) {
			s := newS1(t, S1Options{Policy: policy})
			for _, f := range s.Families() {
				serveAll(t, s.A.Host, s.A.Eth0.Address(f))
				serveAll(t, s.B.Host, s.B.Eth0.Address(f))
			}
			eachQuestion(t, s.Families(), func(t *testing.T, f Family, q question) {
				expectAnswer(t, q, s.A.Host, s.B.Eth0.Address(f))
				expectAnswer(t, q, s.B.Host, s.A.Eth0.Address(f))
			})
		})
	}
}

// TestS1WildcardUDP shows the second way in which the answer goes wrong: a socket bound to no address answers from the
// one that the route picks.
func TestS1WildcardUDP(t *testing.T) {
	s := newS1(t, S1Options{})
	serveUDP(t, s.B.Host, netip.IPv6Unspecified())
	for _, f := range s.Families() {
		t.Run(f.String(), func(t *testing.T) {
			arrived := capture(t, s.A.Eth1)
			ctx, cancel := context.WithCancel(within(t, answerTime))
			asked := make(chan error, 1)
			go func() { asked <- ask(ctx, s.A.Host, "udp", s.B.Eth1.Address(f)) }()
			if _, err := arrived.Wait(ctx, All(UDP, From(s.B.Eth0.Address(f)))); err != nil {
				t.Errorf("no answer from eth0's address: %v", err)
			}
			cancel()
			if err := <-asked; err == nil {
				t.Error("the question was answered")
			}
		})
	}
}

func TestS1WithoutIPv6(t *testing.T) {
	s := newS1(t, S1Options{NoIPv6: true, ProductionMTU: 9000, ReplicationMTU: 1400})
	if f := s.Families(); len(f) != 1 || f[0] != IPv4 {
		t.Errorf("families are %v", f)
	}
	must(t, s.B.AddRoute(s.ReplicationRoute(IPv4)))
	must(t, askPing(within(t, answerTime), s.A.Host, s.B.Eth1.Address(IPv4)))
	for _, c := range []struct {
		i   *Interface
		mtu int
	}{{s.A.Eth0, 9000}, {s.B.Eth0.Peer(), 9000}, {s.A.Eth1, 1400}, {s.B.Eth1.Peer(), 1400}} {
		link, err := c.i.Link()
		must(t, err)
		if mtu := link.Attrs().MTU; mtu != c.mtu {
			t.Errorf("%s on %s has mtu %d, not %d", c.i.Name, c.i.Host.Name, mtu, c.mtu)
		}
	}
}

// TestS1ColdGateway shows why the ready-made networks resolve the servers' gateways: an answer with the wrong source
// lends it to the ARP request, which a strict router does not answer, and so it never leaves at all.
func TestS1ColdGateway(t *testing.T) {
	s := newS1(t, S1Options{ColdGateways: true})
	production := capture(t, s.B.Eth0.Peer())
	asked := s.B.Eth1.Address(IPv4)
	ctx, cancel := context.WithCancel(within(t, answerTime))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- askPing(ctx, s.A.Host, asked) }()

	// The kernel asks three times, a second apart; the second time shows that the first was in vain.
	requests, err := production.WaitCount(ctx, 2, isARP(layers.ARPRequest))
	must(t, err)
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
	if n := production.Count(OneOf(isARP(layers.ARPReply), EchoReply)); n != 0 {
		t.Errorf("%d answers, to the ARP request or to the ping", n)
	}
}

// isARP matches ARP packets with an operation.
func isARP(operation uint16) Filter {
	return func(f *Frame) bool {
		arp, ok := f.Packet().Layer(layers.LayerTypeARP).(*layers.ARP)
		return ok && arp.Operation == operation
	}
}
