// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// s6 is the network with echo servers at both uplink addresses, at the client and in the network behind the host.
type s6 struct{ *topology.S6 }

func newS6(t *testing.T) s6 {
	t.Helper()
	s := s6{traffic.Build(t, topology.NewS6)}
	for _, f := range s.Families() {
		for _, nic := range s.Server.NICs() {
			traffic.Serve(t, s.Server.Host, nic.Address(f))
		}
		for _, address := range s.ClientAddresses(f) {
			traffic.Serve(t, s.Client, address)
		}
	}
	return s
}

// client is the client with its nth address of a family.
func (s s6) client(f topology.Family, n int) *topology.Interface {
	nic := *s.ClientEth0
	address := s.ClientAddresses(f)[n]
	nic.Addresses = []netip.Prefix{netip.PrefixFrom(address, address.BitLen())}
	return &nic
}

// by is the exit by an uplink.
func (s s6) by(uplink *topology.Interface) exit {
	return exitBy(s.Server, uplink)
}

// asked has the client ask an uplink's address, whose answers should leave by one.
func (s s6) asked(uplink *topology.Interface) asking {
	return asking{client: s.ClientEth0, of: uplink.Address}
}

// answered wants both uplinks to answer.
func (s s6) answered(t *testing.T, name string) {
	for _, uplink := range s.Server.NICs() {
		s.asked(uplink).answered(t, uplink.Name+name, s.by(uplink))
	}
}

// TestS6 asks both addresses of a host with two uplinks. Without replypath all answers leave by the uplink of the
// default route, where the provider drops those with the other's address. The same helps where the host itself drops
// what comes by eth0, since the way back is eth1, and the rules of the recipe do as well.
func TestS6(t *testing.T) {
	s := newS6(t)
	eth0, eth1 := s.Server.Eth0, s.Server.Eth1
	s.asked(eth0).lost(t, "eth0 without replypath", s.by(eth1))
	s.asked(eth1).answered(t, "eth1 without replypath", s.by(eth1))
	p, _ := product.StartOn(t, s.Server.Host)
	s.answered(t, "")
	s.eachStarted(t, "the host asks", eth1)
	p.Expect(0, "detach", "--stop")
	s.asked(eth0).lost(t, "eth0 after detach", s.by(eth1))

	const filter = "net/ipv4/conf/all/rp_filter"
	await.Must(t, s.Server.SetSysctl(filter, "1"))
	for _, kind := range traffic.Kinds {
		wantNoAnswer(t, traffic.NewConversation(t, kind, s.ClientEth0, eth0.Address(topology.IPv4)), s.Server.NICs()...)
	}
	p.Start()
	s.answered(t, " with a strict filter")
	p.Expect(0, "detach", "--stop")
	await.Same(t, "rp_filter after detach", "1", await.Must1[string](t)(s.Server.Sysctl(filter)))
	host.ReadRecipe(t, "s6-two-uplinks").Run(s.Server.Host, "With ip rule")
	s.answered(t, " by rules")
}

// eachStarted has the host ask the client, from the address that the route gives it, and wants that by an uplink.
func (s s6) eachStarted(t *testing.T, name string, uplink *topology.Interface) {
	traffic.EachQuestion(t, name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, uplink, s.ClientEth0.Address(f))
		s.by(uplink).wantQuestions(t, c)
	})
}

// multipath gives the host one default route by both uplinks, which chooses by addresses, and another address that
// the provider sends by eth0. It returns that address: for an answer from a NIC's first IPv4 address, the kernel
// prefers that NIC (since 6.16, fib_select_multipath), so that only others show what all show on older kernels.
func (s s6) multipath(t *testing.T) map[topology.Family]netip.Addr {
	t.Helper()
	// IPv6's choice looks at the flow label as well, which is a hash of ports.
	await.Must(t, s.Server.SetSysctl("net/ipv6/auto_flowlabels", "0"))
	host.Shell(t, s.Server.Host, `
		ip -4 route replace default nexthop via 203.0.113.65 nexthop via 203.0.113.233
		ip -6 route del default
		ip -6 route add default nexthop via 2001:db8:65::1 nexthop via 2001:db8:233::1
		ip -4 address add 198.51.100.1/32 dev eth0
		ip -6 address add 2001:db8:100::1/128 dev eth0 nodad`)
	host.Shell(t, s.Provider.Host, `
		ip -4 route add 198.51.100.1 via 203.0.113.66
		ip -6 route add 2001:db8:100::1 via 2001:db8:65::2`)
	return addresses("198.51.100.1", "2001:db8:100::1")
}

// TestS6Multipath has one default route by both uplinks, which sends answers from
// one address by either.
func TestS6Multipath(t *testing.T) {
	s := newS6(t)
	other := s.multipath(t)
	for _, f := range s.Families() {
		t.Run("without replypath/"+f.String(), func(t *testing.T) { s.wantSpread(t, other[f]) })
		traffic.Serve(t, s.Server.Host, other[f])
	}
	product.StartOn(t, s.Server.Host)
	s.answered(t, "")
	traffic.EachQuestion(t, "another address", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		exits := wire.TapAll(t, s.Server.NICs()...)
		for n := range s.ClientAddresses(f) {
			c := traffic.NewConversation(t, kind, s.client(f, n), other[f])
			traffic.Ask(t, c)
			s.by(s.Server.Eth0).want(exits, c.String(), c.Answers())
		}
	})
}

// wantSpread has all of the client's addresses ask an address that the provider
// sends by eth0. Some of the answers leave by eth1, and those are lost.
func (s s6) wantSpread(t *testing.T, asked netip.Addr) {
	exits := wire.TapAll(t, s.Server.NICs()...)
	lost := 0
	for _, from := range s.ClientAddresses(topology.FamilyOf(asked)) {
		answer := topology.All(topology.EchoReply, topology.From(asked), topology.To(from))
		ask := func(patience time.Duration) (wrong int, err error) {
			_, err = s.Client.Ping(await.Within(t, patience), topology.Echo{To: asked, From: from})
			return len(exits.Left(s.Server.Eth1, answer)), err
		}
		wrong, err := ask(4 * await.SilenceTime)
		if err != nil && wrong == 0 { // a busy machine is slower
			wrong, err = ask(await.AnswerTime)
		}
		if (err != nil) != (wrong > 0) {
			t.Errorf("asked from %s: %d answers left by eth1, but: %v", from, wrong, err)
		}
		lost += wrong
	}
	if lost == 0 {
		t.Error("no answer left by eth1")
	}
}

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
	for _, nic := range s.Server.NICs() {
		rules += fmt.Sprintf("iifname %s ip saddr != %s drop\n", nic.Peer().Name, nic.Address(topology.IPv4))
		rules += fmt.Sprintf("iifname %s ip6 saddr != { %s, fe80::/10 } drop\n", nic.Peer().Name, nic.Address(topology.IPv6))
	}
	host.Nft(t, s.Switch.Host, "table bridge guard {\nchain prerouting { type filter hook prerouting priority 0;\n"+rules+"}\n}")
}

// each asks for an address of `asked` from the server's own subnet and from beyond the router, and holds the
// answers, which should leave by `by`, against a want.
func (s s5) each(t *testing.T, families []topology.Family, name string, asked, by *topology.Interface,
	want func(exit, *testing.T, *traffic.Conversation, topology.Filter)) {
	nics := s.Server.NICs()
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
