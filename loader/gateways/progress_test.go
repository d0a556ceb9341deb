// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/sockets"
	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestProgressWhileAnEntryIsFailed: IPv6 goes over from a gateway to the fallback route while its entry is a failed
// one. A connection that leads by the gateway else leads by it all the same, and one that a route of somebody else's
// takes does not.
func TestProgressWhileAnEntryIsFailed(t *testing.T) {
	n := traffic.NewNetwork(t)
	host := await.Must1[*topology.Host](t)
	server, router := host(n.Host("server")), host(n.Host("router"))
	connect := func(name, self, other string) *topology.Interface {
		nic, _, err := n.Connect(
			topology.NIC{Host: server, Name: name, Addresses: []netip.Prefix{netip.MustParsePrefix(self)}},
			topology.NIC{Host: router, Name: name + "-r", Addresses: []netip.Prefix{netip.MustParsePrefix(other)}},
		)
		await.Must(t, err)
		return nic
	}
	eth0 := connect("eth0", "2001:db8:1::100/64", "2001:db8:1::1/64")
	other := connect("other", "2001:db8:2::100/64", "2001:db8:2::1/64")
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	testhost.Shell(t, server, "ip -6 route add default via 2001:db8:1::1 dev eth0")
	testhost.Shell(t, server, "ip -6 route add default via 2001:db8:2::1 dev other metric 4294967294")

	g := &gateway{Gateway: nexthop.Gateway{Interface: eth0.Index, Address: netip.MustParseAddr("2001:db8:1::1"), IPv6: true}}
	s := &sockets.Socket{Local: netip.MustParseAddrPort("[2001:db8:1::100]:9"), Remote: netip.MustParseAddrPort("[2001:db8:9::1]:7")}
	leads := func(fallback *pins.FallbackRecord) bool {
		c := connections{&Host{Netlink: server.Netlink, Journal: &pins.Journal{Fallback: fallback}}}
		return c.isRoutedBy(g, s)
	}
	setGateway := func(mac net.HardwareAddr, state int) {
		await.Must(t, server.Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: eth0.Index, IP: g.Address.AsSlice(), HardwareAddr: mac, State: state,
		}))
	}
	setGateway(net.HardwareAddr{2, 0, 0, 0, 0, 1}, netlink.NUD_REACHABLE)
	if !leads(nil) {
		t.Error("the connection does not lead by the gateway that is there")
	}
	setGateway(nil, netlink.NUD_FAILED)
	if leads(nil) {
		t.Error("the kernel does not go over to the other route: this test shows nothing")
	}
	if !leads(&pins.FallbackRecord{Index: other.Index}) {
		t.Error("the connection does not lead by the gateway whose entry is a failed one")
	}
	if leads(&pins.FallbackRecord{Index: other.Index + 1}) {
		t.Error("the connection leads by the gateway, and a route of somebody else's takes it")
	}
}
