// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/test/await"
)

// bare is a gateway without a neighbour entry.
func bare(device int, gateway string, families ...int) Gateway {
	g := Gateway{Interface: device, Address: address(gateway), State: StateNone}
	for _, f := range families {
		g.IPv4 = g.IPv4 || f == 4
		g.IPv6 = g.IPv6 || f == 6
	}
	return g
}

func check(t *testing.T, got []Gateway, want ...Gateway) {
	t.Helper()
	await.Same(t, "gateways", want, got, cmpopts.IgnoreFields(Gateway{}, "Main", "Reach4", "Reach6"))
}

// addEth1 gives the server a second interface with a carrier.
func (p *pair) addEth1(t *testing.T) int {
	t.Helper()
	ip(t, p.server, `
link add eth1 type veth peer name far1
link set eth1 up
link set far1 up
addr add 10.2.0.100/24 dev eth1
addr add 2001:db8:2::100/64 dev eth1 nodad
`)
	link := await.Must1[netlink.Link](t)(p.server.Netlink().LinkByName("eth1"))
	return link.Attrs().Index
}

func TestGatewaysOfEveryKindOfRoute(t *testing.T) {
	p := newPair(t)
	eth0, eth1 := p.eth0.Index, p.addEth1(t)
	check(t, p.gateways(t))

	ip(t, p.server, `
route add default via 10.1.0.1
route add default via 10.1.0.2 metric 500
route add 10.9.0.0/16 via 10.2.0.1
route add 10.10.0.0/16 via 10.2.0.1 table 100
route add 10.11.0.0/16 via 10.2.0.2 table 100000
route add 10.12.0.0/16 nexthop via 10.1.0.3 nexthop via 10.2.0.3
route add 10.13.0.0/16 via 192.0.2.1 dev eth1 onlink
route add 10.14.0.0/16 via inet6 2001:db8:2::4 dev eth1
route add 10.15.0.0/16 via inet6 2001:db8:2::5 dev eth1
route add 10.16.0.0/16 nexthop via inet6 fe80::16 dev eth0 nexthop via 10.2.0.3
route add default via fe80::1 dev eth0
route add 2001:db8:9::/48 via 2001:db8:2::1
route add 2001:db8:10::/48 via 2001:db8:2::5 table 7
route add 2001:db8:11::/48 nexthop via 2001:db8:2::6 dev eth1 nexthop via fe80::6 dev eth1
route add unreachable 10.17.0.0/16
nexthop add id 1 via 10.2.0.7 dev eth1
nexthop add id 2 via 2001:db8:2::7 dev eth1
nexthop add id 3 via 10.2.0.8 dev eth1
nexthop add id 10 group 1/3
route add 10.18.0.0/16 nhid 10
route add 2001:db8:12::/48 nhid 2
rule add prio 40000 table 100
rule add prio 40001 table 100000
`)
	ip(t, p.server, "-6 rule add prio 40000 table 7")
	check(t, p.gateways(t),
		bare(eth0, "10.1.0.1", 4),
		bare(eth0, "10.1.0.2", 4),
		bare(eth0, "10.1.0.3", 4),
		bare(eth0, "fe80::1", 6),
		bare(eth0, "fe80::16", 4),
		bare(eth1, "10.2.0.1", 4),
		bare(eth1, "10.2.0.2", 4),
		bare(eth1, "10.2.0.3", 4),
		bare(eth1, "10.2.0.7", 4),
		bare(eth1, "10.2.0.8", 4),
		bare(eth1, "192.0.2.1", 4),
		bare(eth1, "2001:db8:2::1", 6),
		bare(eth1, "2001:db8:2::4", 4),
		bare(eth1, "2001:db8:2::5", 4, 6),
		bare(eth1, "2001:db8:2::6", 6),
		bare(eth1, "2001:db8:2::7", 6),
		bare(eth1, "fe80::6", 6),
	)
	// What is not managed has no gateways.
	check(t, p.gateways(t, config.Interface{Name: "eth0"}),
		bare(eth0, "10.1.0.1", 4),
		bare(eth0, "10.1.0.2", 4),
		bare(eth0, "10.1.0.3", 4),
		bare(eth0, "fe80::1", 6),
		bare(eth0, "fe80::16", 4),
	)
}

func TestConfiguredGateways(t *testing.T) {
	p := newPair(t)
	eth0, eth1 := p.eth0.Index, p.addEth1(t)
	ip(t, p.server, `
route add default via 10.1.0.1
route add default via 2001:db8:1::1
route add 10.9.0.0/16 via inet6 2001:db8:1::9 dev eth0
route add 10.10.0.0/16 via 10.2.0.1
`)
	set := func(gateways ...string) []config.Interface {
		eth0 := config.Interface{Name: "eth0"}
		for _, g := range gateways {
			eth0.Gateways = append(eth0.Gateways, address(g))
		}
		return []config.Interface{eth0, {Name: "eth1"}}
	}
	other := bare(eth1, "10.2.0.1", 4)

	check(t, p.gateways(t, set()...),
		bare(eth0, "10.1.0.1", 4), bare(eth0, "2001:db8:1::1", 6), bare(eth0, "2001:db8:1::9", 4), other)
	check(t, p.gateways(t, set("10.1.0.7", "10.1.0.6", "10.1.0.7")...),
		bare(eth0, "10.1.0.6", 4), bare(eth0, "10.1.0.7", 4), bare(eth0, "2001:db8:1::1", 6), other)
	check(t, p.gateways(t, set("fe80::7")...),
		bare(eth0, "10.1.0.1", 4), bare(eth0, "2001:db8:1::9", 4), bare(eth0, "fe80::7", 6), other)
	check(t, p.gateways(t, set("10.99.0.1")...),
		bare(eth0, "10.99.0.1", 4), bare(eth0, "2001:db8:1::1", 6), other)
}

// Own addresses are no gateways, but a router may have the link-local address that the host has on another interface.
func TestOwnAddressIsNoGateway(t *testing.T) {
	p := newPair(t)
	p.addEth1(t)
	ip(t, p.server, `
addr add fe80::1/64 dev eth1 nodad
route add default via fe80::1 dev eth0
route add 10.9.0.0/16 via 10.2.0.7 dev eth0 onlink
addr add 10.2.0.7/24 dev eth1
`)
	eth0 := config.Interface{Name: "eth0", Gateways: []netip.Addr{address("10.2.0.100"), address("10.1.0.1")}}
	check(t, p.gateways(t, eth0), bare(p.eth0.Index, "10.1.0.1", 4), bare(p.eth0.Index, "fe80::1", 6))
	eth1 := config.Interface{Name: "eth1", Gateways: []netip.Addr{address("fe80::1")}}
	check(t, p.gateways(t, eth1))
	check(t, p.gateways(t, config.Interface{Name: "eth0"}), bare(p.eth0.Index, "fe80::1", 6))
}

// TestSources: whose packets the default routes by a gateway take, in any table, as far as they do not take
// everybody's.
func TestSources(t *testing.T) {
	p := newPair(t)
	for _, route := range []string{
		"default via 2001:db8:1::1",
		"default from 2001:db8:1::/64 via 2001:db8:1::2",
		"default from 2001:db8:7::/64 via 2001:db8:1::3 table 7",
		"default via 2001:db8:1::3 metric 7",
		"2001:db8:50::/48 from 2001:db8:8::/64 via 2001:db8:1::3",
	} {
		ip(t, p.server, "-6 route add "+route)
	}
	ip(t, p.server, "-6 rule add prio 40000 table 7")
	got := make(map[string][]string)
	for _, g := range p.gateways(t) {
		got[g.Address.String()] = nil
		for _, s := range g.Sources {
			got[g.Address.String()] = append(got[g.Address.String()], s.String())
		}
	}
	want := map[string][]string{
		"2001:db8:1::1": nil, "2001:db8:1::2": {"2001:db8:1::/64"}, "2001:db8:1::3": {"::/0", "2001:db8:7::/64"},
	}
	await.Same(t, "sources", want, got)
}

func TestGatewayStates(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 9, 9}
	for _, test := range []struct {
		state string
		mac   net.HardwareAddr
	}{
		{StateReachable, mac},
		{StateStale, mac},
		{StateProbe, mac},
		{StatePermanent, mac},
		{StateFailed, nil},
		{StateNoARP, mac},
	} {
		t.Run(test.state, func(t *testing.T) {
			p := newPair(t)
			// What the kernel leaves by itself lasts for the test.
			sysctl(t, p.server, "net/ipv4/neigh/eth0/retrans_time_ms=1000000", "net/ipv6/neigh/eth0/retrans_time_ms=1000000")
			events := p.watch(t)
			// The kernel tells of a failure only where there was something valid before.
			ip(t, p.server, `
route add default via 10.1.0.9
route add default via fe80::9 dev eth0
neigh add 10.1.0.9 dev eth0 lladdr 02:00:00:00:09:09 nud reachable
neigh add fe80::9 dev eth0 lladdr 02:00:00:00:09:09 nud reachable
neigh change 10.1.0.9 dev eth0 lladdr 02:00:00:00:09:09 nud `+test.state+`
neigh change fe80::9 dev eth0 lladdr 02:00:00:00:09:09 nud `+test.state)
			v4, v6 := bare(p.eth0.Index, "10.1.0.9", 4), bare(p.eth0.Index, "fe80::9", 6)
			v4.State, v4.MAC, v6.State, v6.MAC = test.state, test.mac, test.state, test.mac
			check(t, p.gateways(t), v4, v6)

			for _, want := range []Gateway{v4, v6} {
				want.IPv4, want.IPv6 = false, false
				want.Requested = test.state == StateFailed // by ip(8)
				event := awaitState(t, events, want.Address, test.state)
				await.Same(t, "event", want, event)
			}
		})
	}
}

func TestInterfaceWithoutNeighbours(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, `
tuntap add tun0 mode tun
addr add 10.3.0.100/24 dev tun0
link set tun0 up
route add 10.30.0.0/16 via 10.3.0.1
link set eth0 arp off
route add 10.10.0.0/16 via 10.1.0.1
route add 10.11.0.0/16 via 10.1.0.2
neigh add 10.1.0.2 dev eth0 lladdr 02:00:00:00:09:09 nud permanent
`)
	tun := await.Must1[netlink.Link](t)(p.server.Netlink().LinkByName("tun0"))
	silent := bare(p.eth0.Index, "10.1.0.1", 4)
	silent.State = StateNoARP
	fixed := bare(p.eth0.Index, "10.1.0.2", 4)
	fixed.State, fixed.MAC = StatePermanent, net.HardwareAddr{2, 0, 0, 0, 9, 9}
	tunnel := bare(tun.Attrs().Index, "10.3.0.1", 4)
	tunnel.State = StateNoARP
	want := []Gateway{silent, fixed, tunnel}
	check(t, p.gateways(t), want...)

	// Now that the kernel has an entry, it holds eth0's own MAC address.
	c, err := p.server.Dial(t.Context(), "udp", "10.10.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	check(t, p.gateways(t), want...)
}
