// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
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
	s := harness.NewS1(t, topology.S1Options{Policy: policy})
	for _, f := range s.Families() {
		harness.Serve(t, s.A.Host, s.A.Eth1.Address(f))
	}
	return s
}

// fromEth1 prepares a conversation that B begins from eth1's address.
func fromEth1(t *testing.T, s *topology.S1, kind harness.Kind, f topology.Family) *harness.Conversation {
	t.Helper()
	return harness.NewConversation(t, kind, s.B.Eth1, s.A.Eth1.Address(f))
}

// eachBegun runs a subtest for each family and kind of question that B asks from eth1's address.
func eachBegun(t *testing.T, s *topology.S1, name string, run func(*testing.T, *harness.Conversation)) {
	harness.EachQuestionOf(t, s.Families(), name, func(t *testing.T, f topology.Family, kind harness.Kind) {
		run(t, fromEth1(t, s, kind, f))
	})
}

// wantBegunLost wants what B begins to leave by eth0, where a strict router drops it.
func wantBegunLost(t *testing.T, s *topology.S1, c *harness.Conversation) {
	t.Helper()
	wantLostAs(t, s, c, c)
}

// wantLostAs is that for what leaves translated into another conversation.
func wantLostAs(t *testing.T, s *topology.S1, c, seen *harness.Conversation) {
	t.Helper()
	wires, arrived := harness.Tap(t, s.B), harness.Capture(t, s.A.Eth1)
	if err := harness.AskUntilLost(t, c, wires.Eth0, seen.Questions()); err == nil {
		t.Error("the question was answered, although it left by the wrong side")
	}
	wires.WantEth0("what the host begins", seen.Questions())
	if n := arrived.Count(seen.Questions()); n != 0 {
		t.Errorf("%d questions reached A", n)
	}
}

// wantBegun wants what B begins to leave by eth1, and to be answered.
func wantBegun(t *testing.T, s *topology.S1, c *harness.Conversation) {
	t.Helper()
	wantBegunAs(t, s, c, c)
}

// wantBegunAs is that for what leaves translated into another conversation.
func wantBegunAs(t *testing.T, s *topology.S1, c, seen *harness.Conversation) {
	t.Helper()
	wires := harness.Tap(t, s.B)
	harness.AskSizes(t, c)
	harness.End(t, c, wires.Eth1, seen.Questions())
	wires.WantEth1("what the host begins", seen.Questions())
}

// TestStrongHost has B begin from eth1's address, while its default route is by eth0, between routers that check
// sources. By the weak host model it is lost, and counted; by the strong one it leaves by eth1.
func TestStrongHost(t *testing.T) {
	for _, policy := range []topology.Policy{topology.StrictSource, topology.Stateful} {
		t.Run(policy.String(), func(t *testing.T) {
			s := newBeginner(t, policy)
			eachBegun(t, s, "without replypath", func(t *testing.T, c *harness.Conversation) { wantBegunLost(t, s, c) })
			p := harness.On(t, s.B.Host)
			p.Start()
			eachBegun(t, s, "weak", func(t *testing.T, c *harness.Conversation) {
				wantBegunLost(t, s, c)
				wantOriginated(t, p, c, "routed")
			})
			p.Expect(0, "detach", "--stop")
			p.Start("--config", harness.WriteConfig(t, strongHost(s)))
			eachBegun(t, s, "strong", func(t *testing.T, c *harness.Conversation) {
				wantBegun(t, s, c)
				wantOriginated(t, p, c, "moved")
				wantExplained(t, p, c)
			})
			each(t, s, "replies", func(t *testing.T, c *harness.Conversation) { wantAnswers(t, s.B, c, true) })
			p.Expect(0, "detach", "--stop")
			eachBegun(t, s, "after detach", func(t *testing.T, c *harness.Conversation) { wantBegunLost(t, s, c) })
		})
	}
}

// wantOriginated wants a conversation to be counted as one that B originated, with this outcome and no other.
func wantOriginated(t *testing.T, p *harness.Product, c *harness.Conversation, outcome string) {
	t.Helper()
	m := p.Metrics()
	labels := []string{"from_interface=eth0", "to_interface=eth1", "family=" + topology.FamilyOf(c.Peer.Addr()).String(), "protocol=" + c.Protocol()}
	for _, o := range []string{"moved", "routed"} {
		packets := m.Sum("replypath_originated_packets_total", append(labels, "outcome="+o)...)
		flows := m.Sum("replypath_originated_flows_total", append(labels, "outcome="+o)...)
		if counted := packets > 0; counted != (o == outcome) || counted != (flows > 0) {
			t.Errorf("%s: %v packets and %v flows are %s", c, packets, flows, o)
		}
	}
}

// wantExplained wants explain and flows to say which way a conversation goes that B began.
func wantExplained(t *testing.T, p *harness.Product, c *harness.Conversation) {
	t.Helper()
	peer := c.Self.String() // of B
	if c.Kind == harness.Ping {
		peer = c.Self.Addr().String()
	}
	self := c.Peer.String()
	if c.Kind == harness.Ping {
		self = c.Peer.Addr().String()
	}
	e := p.Explain("--peer", peer, "--self", self, "--protocol", c.Protocol())
	if e.Verdict != "strong-host" || harness.OrEmpty(e.Replypath.Interface) != "eth1" || harness.OrEmpty(e.Kernel.Interface) != "eth0" {
		t.Errorf("explain: %s", e)
	}
	if list := p.Flows("--originated", "--peer", c.Self.Addr().String(), "--protocol", c.Protocol()); len(list) == 0 || list[0].State != "originated" ||
		list[0].Self != c.Peer.Addr().String() || harness.OrEmpty(list[0].Interface) != "eth1" || list[0].CorrectedPackets == 0 {
		t.Errorf("flows --originated: %v", list)
	}
}

// TestStrongHostOnLink has B begin to a neighbour of eth1's, to whom a route leads by eth0. The kernel asks for his MAC.
func TestStrongHostOnLink(t *testing.T) {
	s := newBeginner(t, topology.AnySource)
	neighbour := s.B.Eth1.Peer()
	for _, f := range s.Families() {
		harness.Serve(t, s.Replication.Host, neighbour.Address(f))
		run(t, s.B.Host, fmt.Sprintf("ip route add %s via %s", neighbour.Address(f), s.B.Eth0.Gateway(f)))
	}
	begin := func(t *testing.T, f topology.Family, kind harness.Kind) (*harness.Conversation, *harness.Wires) {
		return harness.NewConversation(t, kind, s.B.Eth1, neighbour.Address(f)), harness.Tap(t, s.B)
	}
	harness.EachQuestionOf(t, s.Families(), "without replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
		c, wires := begin(t, f, kind)
		err := c.Ask(harness.Within(t, 4*harness.SilenceTime))
		if _, eth1 := wires.Left(c.Questions()); len(eth1) > 0 {
			t.Errorf("%d questions left by eth1: %v", len(eth1), err)
		}
	})
	harness.On(t, s.B.Host).Start("--config", harness.WriteConfig(t, "host_model: strong\n"))
	harness.EachQuestionOf(t, s.Families(), "strong", func(t *testing.T, f topology.Family, kind harness.Kind) {
		run(t, s.B.Host, "ip neighbour flush dev eth1")
		first, _ := begin(t, f, harness.Ping) // what waits for the MAC is lost
		harness.Eventually(t, "the neighbour is known", func() error { return first.Ask(harness.Within(t, 4*harness.SilenceTime)) })
		c, wires := begin(t, f, kind)
		harness.AskSizes(t, c)
		wires.WantEth1(c.String(), c.Questions())
	})
}

// TestStrongHostByInterface: an interface's own host model goes before the global one, and a reload changes it.
func TestStrongHostByInterface(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p := harness.On(t, s.B.Host)
	config := harness.WriteConfig(t, strings.Replace(strongHost(s), "eth1,", "eth1, host_model: weak,", 1))
	d := p.Start("--config", config)
	eachBegun(t, s, "weak", func(t *testing.T, c *harness.Conversation) { wantBegunLost(t, s, c) })
	harness.Must(t, os.WriteFile(config, []byte(strings.Replace(strongHost(s), "eth1,", "eth1, host_model: strong,", 1)), 0o600))
	d.Reload()
	eachBegun(t, s, "strong", func(t *testing.T, c *harness.Conversation) { wantBegun(t, s, c) })
	p.Expect(0, "mode", "observe")
	eachBegun(t, s, "observe", func(t *testing.T, c *harness.Conversation) { wantBegunLost(t, s, c) })
}

// TestStrongHostDaemonDead: what the host begins goes its way without the daemon, and a connection goes on over a restart.
func TestStrongHostDaemonDead(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p := harness.On(t, s.B.Host)
	config := harness.WriteConfig(t, strongHost(s))
	d := p.Start("--config", config)
	var kept []*harness.Conversation
	for _, f := range s.Families() {
		c := fromEth1(t, s, harness.TCP, f)
		harness.Must(t, c.Ask(harness.Within(t, harness.AnswerTime)))
		kept = append(kept, c)
	}
	d.Kill()
	eachBegun(t, s, "daemon dead", func(t *testing.T, c *harness.Conversation) { wantBegun(t, s, c) })
	p.Start("--config", config)
	for _, c := range kept {
		wantBegun(t, s, c)
	}
}

// TestStrongHostFault has eth0 lose its carrier, and its default route with it: what B begins from eth1's address
// does not notice.
func TestStrongHostFault(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	harness.On(t, s.B.Host).Start("--config", harness.WriteConfig(t, strongHost(s)))
	for _, fault := range []string{"ip link set eth0 down", "ip route del default"} {
		run(t, s.B.Host, fault)
		eachBegun(t, s, fault, func(t *testing.T, c *harness.Conversation) { wantBegun(t, s, c) })
		if fault == "ip link set eth0 down" {
			run(t, s.B.Host, "ip link set eth0 up")
			harness.Must(t, s.B.AddDefault(s.B.Eth0.Gateway(topology.IPv4)))
		}
	}
}

// TestStrongHostMoves: an address that goes takes its way with it, and brings it back.
func TestStrongHostMoves(t *testing.T) {
	s := newBeginner(t, topology.AnySource)
	p := harness.On(t, s.B.Host)
	p.Start("--config", harness.WriteConfig(t, strongHost(s)))
	const address = "10.4.0.7"
	for _, eth1 := range []bool{true, false, true} {
		device, other := "eth0", "eth1"
		if eth1 {
			device, other = "eth1", "eth0"
		}
		_, _ = s.B.Command(t.Context(), "ip", "addr", "del", address+"/32", "dev", other).CombinedOutput() // the first has none
		run(t, s.B.Host, "ip addr add "+address+"/32 dev "+device)
		self := netip.MustParseAddr(address)
		conn := harness.Must1[net.Conn](t)(s.B.Dial(t.Context(), "udp", netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), harness.EchoPort).String(),
			topology.FromAddress(netip.AddrPortFrom(self, 0))))
		wires := harness.Tap(t, s.B)
		harness.Eventually(t, "the way is that of "+device, func() error {
			wires.Eth0.Take(topology.Any)
			wires.Eth1.Take(topology.Any)
			harness.Must1[int](t)(conn.Write([]byte("question")))
			by := wires.Eth0
			if eth1 {
				by = wires.Eth1
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := by.Wait(ctx, topology.All(topology.From(self), topology.Going(topology.Received)))
			return err
		})
		conn.Close()
	}
}

// hostBehind connects a host to B, which forwards for it, and returns its interface with 10.9.9.2 and 2001:db8:99::2.
func hostBehind(t *testing.T, s *topology.S1) *topology.Interface {
	t.Helper()
	inside := harness.Must1[*topology.Host](t)(s.Host("inside"))
	near := topology.NIC{Host: s.B.Host, Name: "inside", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.9.1/24"), netip.MustParsePrefix("2001:db8:99::1/64")}}
	far := topology.NIC{Host: inside, Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.9.2/24"), netip.MustParsePrefix("2001:db8:99::2/64")}}
	_, eth0, err := s.Connect(near, far)
	harness.Must(t, err)
	harness.Must(t, eth0.WaitReady(harness.Within(t, harness.AnswerTime)))
	harness.Must(t, inside.AddDefault(netip.MustParseAddr("10.9.9.1"), netip.MustParseAddr("2001:db8:99::1")))
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		harness.Must(t, s.B.SetSysctl(key, "1"))
	}
	return eth0
}

// TestStrongHostSNAT has B forward for a host behind it, under an address of eth1's: routing comes before the
// translation, so that no `ip rule` for the source sends it by eth1.
func TestStrongHostSNAT(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	eth0, eth1 := hostBehind(t, s), s.B.Eth1
	loadRules(t, s.B.Host, fmt.Sprintf(`table inet masks {
	chain outward { type nat hook postrouting priority srcnat; ip saddr 10.9.9.2 snat to %s; ip6 saddr 2001:db8:99::2 snat to %s; }
}`, eth1.Address(topology.IPv4), eth1.Address(topology.IPv6)))
	each := func(name string, want func(t *testing.T, s *topology.S1, c, seen *harness.Conversation)) {
		harness.EachQuestionOf(t, s.Families(), name, func(t *testing.T, f topology.Family, kind harness.Kind) {
			c := harness.NewConversation(t, kind, eth0, s.A.Eth1.Address(f))
			want(t, s, c, c.Masked(eth1.Address(f)))
		})
	}
	each("without replypath", wantLostAs)
	harness.On(t, s.B.Host).Start("--config", harness.WriteConfig(t, strongHost(s)))
	each("strong", wantBegunAs)
}
