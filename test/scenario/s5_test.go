// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// s5 is the network with echo servers at both addresses of the server.
type s5 struct {
	*topology.S5
	page *host.Recipe
}

func newS5(t *testing.T) s5 {
	t.Helper()
	s := s5{traffic.Build(t, topology.NewS5), host.ReadRecipe(t, "s5-two-nics-one-subnet")}
	traffic.ServeNICs(t, s.Server.Eth0, s.Server.Eth1)
	return s
}

// guard has the switch let each of the server's ports send from its own address only, as
// hosting networks and hypervisors do (IP source guard).
func (s s5) guard(t *testing.T) {
	t.Helper()
	var rules string
	for _, nic := range []*topology.Interface{s.Server.Eth0, s.Server.Eth1} {
		rules += fmt.Sprintf("iifname %s ip saddr != %s drop\n", nic.Peer().Name, nic.Address(topology.IPv4))
		rules += fmt.Sprintf("iifname %s ip6 saddr != { %s, fe80::/10 } drop\n", nic.Peer().Name, nic.Address(topology.IPv6))
	}
	host.Nft(t, s.Switch.Host, "table bridge guard {\nchain prerouting { type filter hook prerouting priority 0;\n"+rules+"}\n}")
}

// each asks for an address of `asked` from the server's own subnet and from beyond the router, and holds the
// answers, which should leave by `by`, against a want.
func (s s5) each(t *testing.T, families []topology.Family, name string, asked, by *topology.Interface,
	want func(exit, *testing.T, *traffic.Conversation, topology.Filter)) {
	nics := []*topology.Interface{s.Server.Eth0, s.Server.Eth1}
	for who, to := range map[*topology.Interface]*topology.Interface{s.NeighbourEth0: s.NeighbourEth0, s.ClientEth0: s.RouterInside} {
		sampled(t, families, name+"/"+who.Host.Name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
			c := traffic.NewConversation(t, kind, who, asked.Address(f))
			want(exit{nics, by, to.MAC}, t, c, c.Answers())
		})
	}
}

// lost wants answers from eth1's address to leave by eth0 and to be dropped. Only an ICMPv6 echo reply prefers the
// interface of its request, where several lead to the peer (net/ipv6/icmp.c, icmpv6_echo_reply): it is right by itself.
func (s s5) lost(e exit, t *testing.T, c *traffic.Conversation, answers topology.Filter) {
	if c.Protocol() == "icmpv6" && c.Peer.Addr() == s.NeighbourEth0.Address(topology.IPv6) {
		e.by = s.Server.Eth1
		e.wantAnswers(t, c, answers)
		return
	}
	e.wantLost(t, c, answers)
}

// TestS5 asks both NICs of a server in one subnet, which answers ARP requests by the NIC that has the address, as the
// recipe says. Without replypath all answers leave by eth0, where the switch drops those that have eth1's address;
// with it, and with the rules of the recipe, each leaves by the NIC that was asked, directly to who is on-link. The
// same helps where the server itself drops the questions that come by eth1, since the way back is eth0: replypath
// makes the filter loose.
func TestS5(t *testing.T) {
	s := newS5(t)
	s.guard(t)
	s.page.Run(s.Server.Host, "ARP")
	eth0, eth1 := s.Server.Eth0, s.Server.Eth1
	s.each(t, traffic.Families, "eth0 without replypath", eth0, eth0, exit.wantAnswers)
	s.each(t, traffic.Families, "eth1 without replypath", eth1, eth0, s.lost)
	p := product.On(t, s.Server.Host)
	answered := func(name string) {
		s.each(t, traffic.Families, "eth0"+name, eth0, eth0, exit.wantAnswers)
		s.each(t, traffic.Families, "eth1"+name, eth1, eth1, exit.wantAnswers)
	}
	p.Start()
	answered("")
	p.Expect(0, "detach", "--stop")
	s.each(t, traffic.Families, "after detach", eth1, eth0, s.lost)

	// It does not answer ARP requests by eth1 either, then.
	for _, other := range []*topology.Interface{s.NeighbourEth0, s.RouterInside} {
		await.Must(t, other.Resolve(await.Within(t, await.AnswerTime), eth1.Address(topology.IPv4)))
	}
	await.Must(t, s.Server.SetSysctl("net/ipv4/conf/all/rp_filter", "1"))
	for _, kind := range traffic.Kinds {
		wantNoAnswer(t, traffic.NewConversation(t, kind, s.NeighbourEth0, eth1.Address(topology.IPv4)), eth1, eth0)
	}
	p.Start()
	answered(" with a strict filter")
	p.Expect(0, "detach", "--stop")
	await.Must(t, s.Server.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
	s.page.Run(s.Server.Host, "With ip rule")
	answered(" by rules")
}

// TestS5Flux has the neighbour and the router believe that each IPv4 address is at the other NIC, as ARP flux brings
// it about: questions for eth1's address come in by eth0 and the other way round. Answers leave by the NIC that the
// question came in by. IPv6 addresses are asked for at their own NIC only.
func TestS5Flux(t *testing.T) {
	s := newS5(t)
	eth0, eth1 := s.Server.Eth0, s.Server.Eth1
	for _, other := range []*topology.Interface{s.NeighbourEth0, s.RouterInside} {
		await.Must(t, other.AddNeighbour(eth0.Address(topology.IPv4), eth1.MAC))
		await.Must(t, other.AddNeighbour(eth1.Address(topology.IPv4), eth0.MAC))
	}
	s.each(t, ipv4, "eth0's address without replypath", eth0, eth0, exit.wantAnswers)
	product.On(t, s.Server.Host).Start()
	s.each(t, ipv4, "eth0's address", eth0, eth1, exit.wantAnswers)
	s.each(t, ipv4, "eth1's address", eth1, eth0, exit.wantAnswers)
}
