// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// strongHost names the gateways of eth1, to which no route leads.
func strongHost(s *topology.S1) string {
	eth1 := s.B.Eth1
	return fmt.Sprintf("host_model: strong\ninterfaces: [{name: eth0}, {name: eth1, gateways: [%s, %q]}]\n",
		eth1.Gateway(topology.IPv4), eth1.Gateway(topology.IPv6))
}

// newBeginner is S1 where A answers what B begins.
func newBeginner(t *testing.T, policy topology.Policy) *topology.S1 {
	t.Helper()
	s := traffic.NewS1(t, topology.S1Options{Policy: policy})
	traffic.ServeNICs(t, s.A.Eth1)
	return s
}

// fromEth1 prepares a conversation that B begins from eth1's address.
func fromEth1(t *testing.T, s *topology.S1, kind traffic.Kind, f topology.Family) *traffic.Conversation {
	t.Helper()
	return traffic.NewConversation(t, kind, s.B.Eth1, s.A.Eth1.Address(f))
}

// eachBegun runs a subtest for each family and kind of question that B asks from eth1's address.
func eachBegun(t *testing.T, s *topology.S1, name string, run func(*testing.T, *traffic.Conversation)) {
	traffic.EachQuestionOf(t, s.Families(), name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		run(t, fromEth1(t, s, kind, f))
	})
}

// wantBegunLost wants what B begins to leave by eth0, where a strict router drops it.
func wantBegunLost(t *testing.T, s *topology.S1, c *traffic.Conversation) {
	t.Helper()
	wantLostAs(t, s, c, c)
}

// wantLostAs is that for what leaves translated into another conversation.
func wantLostAs(t *testing.T, s *topology.S1, c, seen *traffic.Conversation) {
	t.Helper()
	arrived := wire.Capture(t, s.A.Eth1)
	exitBy(s.B, s.B.Eth0).wantLost(t, c, seen.Questions())
	await.Same(t, "questions that reached A", 0, arrived.Count(seen.Questions()))
}

// wantBegun wants what B begins to leave by eth1, and to be answered.
func wantBegun(t *testing.T, s *topology.S1, c *traffic.Conversation) {
	t.Helper()
	wantBegunAs(t, s, c, c)
}

// wantBegunAs is that for what leaves translated into another conversation.
func wantBegunAs(t *testing.T, s *topology.S1, c, seen *traffic.Conversation) {
	t.Helper()
	exitBy(s.B, s.B.Eth1).wantAnswers(t, c, seen.Questions())
}

// sampledBegun is eachBegun, with -short for one kind of question in each family.
func sampledBegun(t *testing.T, s *topology.S1, name string, run func(*testing.T, *traffic.Conversation)) {
	sampled(t, s.Families(), name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		run(t, fromEth1(t, s, kind, f))
	})
}

// TestStrongHost has B begin from eth1's address, while its default route is by eth0, between routers that check
// sources. By the weak host model it is lost, and counted; by the strong one it leaves by eth1.
func TestStrongHost(t *testing.T) {
	for _, policy := range []topology.Policy{topology.StrictSource, topology.Stateful} {
		t.Run(policy.String(), func(t *testing.T) { testStrongHost(t, policy) })
	}
}

func testStrongHost(t *testing.T, policy topology.Policy) {
	s := newBeginner(t, policy)
	lost := func(t *testing.T, c *traffic.Conversation) { wantBegunLost(t, s, c) }
	begun := func(t *testing.T, c *traffic.Conversation) { wantBegun(t, s, c) }
	sampledBegun(t, s, "without replypath", lost)
	p := product.On(t, s.B.Host)
	if policy == topology.StrictSource {
		p.Start()
		eachBegun(t, s, "weak", func(t *testing.T, c *traffic.Conversation) {
			wantBegunLost(t, s, c)
			wantOriginated(t, p, c, "routed")
		})
		p.Expect(0, "detach", "--stop")
	}
	d := p.Start("--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	each := eachBegun
	if policy != topology.StrictSource {
		each = sampledBegun
	}
	each(t, s, "strong", func(t *testing.T, c *traffic.Conversation) {
		wantBegun(t, s, c)
		wantOriginated(t, p, c, "moved")
		wantExplained(t, p, c)
	})
	sampled(t, s.Families(), "replies", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantAnswers(t, s.B, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)), true)
	})
	if policy == topology.StrictSource {
		var kept []*traffic.Conversation
		for _, f := range s.Families() {
			kept = append(kept, fromEth1(t, s, traffic.TCP, f))
		}
		for _, c := range kept {
			traffic.Ask(t, c)
		}
		d.Kill()
		sampledBegun(t, s, "daemon dead", begun)
		d = p.Start("--config", d.Config)
		for _, c := range kept {
			wantBegun(t, s, c)
		}
		// An interface's own host model goes before the global one.
		d.Reconfigure("related: false\n" + strings.Replace(strongHost(s), "eth1,", "eth1, host_model: weak,", 1))
		sampledBegun(t, s, "weak by interface", lost)
		d.Reconfigure(strings.NewReplacer("strong", "weak", "eth1,", "eth1, host_model: strong,").Replace(strongHost(s)))
		sampledBegun(t, s, "strong by interface", begun)
		p.Expect(0, "mode", "observe")
		sampledBegun(t, s, "observe", lost)
	}
	p.Expect(0, "detach", "--stop")
	sampledBegun(t, s, "after detach", lost)
}

// awaitResolved returns when the daemon knows the MAC of each of eth1's gateways: until then what B begins goes as routed. The
// status would show what the kernel knows.
func awaitResolved(t *testing.T, p *product.Product) {
	t.Helper()
	gateways := p.Status().Interface("eth1").Gateways
	await.Eventually(t, "eth1's gateways have answered", func() error {
		metrics := p.Metrics()
		for _, g := range gateways {
			if metrics.Sum("replypath_gateway_reachable", "interface=eth1", "gateway="+g.Address) != 1 {
				return fmt.Errorf("%s has not", g.Address)
			}
		}
		return nil
	})
}

// wantOriginated wants a conversation to be counted as one that B originated, with this outcome and no other.
func wantOriginated(t *testing.T, p *product.Product, c *traffic.Conversation, outcome string) {
	t.Helper()
	wantOriginatedSince(t, nil, p, c, outcome)
}

// wantOriginatedSince is wantOriginated of what was counted since earlier metrics.
func wantOriginatedSince(t *testing.T, before product.Metrics, p *product.Product, c *traffic.Conversation, outcome string) {
	t.Helper()
	m := p.Metrics()
	labels := []string{"from_interface=eth0", "to_interface=eth1", "family=" + topology.FamilyOf(c.Peer.Addr()).String(), "protocol=" + c.Protocol()}
	for _, o := range []string{"moved", "routed"} {
		since := func(name string) float64 {
			of := append(labels, "outcome="+o)
			return m.Sum(name, of...) - before.Sum(name, of...)
		}
		packets, flows := since("replypath_originated_packets_total"), since("replypath_originated_flows_total")
		isNew := before == nil // else its addresses may have been counted
		if counted := packets > 0; counted != (o == outcome) || !counted && flows > 0 || isNew && counted != (flows > 0) {
			t.Errorf("%s: %v packets and %v flows are %s", c, packets, flows, o)
		}
	}
}

// wantExplained wants explain and flows to say which way a conversation goes that B began.
func wantExplained(t *testing.T, p *product.Product, c *traffic.Conversation) {
	t.Helper()
	peer := c.Self.String() // of B
	if c.Kind == traffic.Ping {
		peer = c.Self.Addr().String()
	}
	self := c.Peer.String()
	if c.Kind == traffic.Ping {
		self = c.Peer.Addr().String()
	}
	e := p.Explain("--peer", peer, "--self", self, "--protocol", c.Protocol())
	if e.Verdict != "strong-host" || product.OrEmpty(e.Replypath.Interface) != "eth1" || product.OrEmpty(e.Kernel.Interface) != "eth0" {
		t.Errorf("explain: %s", e)
	}
	if list := p.Flows("--originated", "--peer", c.Self.Addr().String(), "--protocol", c.Protocol()); len(list) == 0 || list[0].State != "originated" ||
		list[0].Self != c.Peer.Addr().String() || product.OrEmpty(list[0].Interface) != "eth1" || list[0].CorrectedPackets == 0 {
		t.Errorf("flows --originated: %v", list)
	}
}

// hostBehind connects a host to B, which forwards for it, and returns its interface with 10.9.9.2 and 2001:db8:99::2.
func hostBehind(t *testing.T, s *topology.S1) *topology.Interface {
	t.Helper()
	inside := await.Must1[*topology.Host](t)(s.Host("inside"))
	near := topology.NIC{Host: s.B.Host, Name: "inside", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("2001:db8:99::1/64")}}
	far := topology.NIC{Host: inside, Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.9.2/24"), netip.MustParsePrefix("2001:db8:99::2/64")}}
	_, eth0, err := s.Connect(near, far)
	await.Must(t, err)
	await.Must(t, eth0.WaitReady(await.Within(t, await.AnswerTime)))
	await.Must(t, inside.AddDefault(netip.MustParseAddr("10.9.9.1"), netip.MustParseAddr("2001:db8:99::1")))
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		await.Must(t, s.B.SetSysctl(key, "1"))
	}
	return eth0
}
