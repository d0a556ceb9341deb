// SPDX-License-Identifier: Apache-2.0

package opened

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/sockets"
	"replypath/test/testhost"
)

// TestTunnelsUseARule: a tunnel sends from an address without a socket.
func TestTunnelsUseARule(t *testing.T) {
	ours, others, peer := net.IPv4(10, 4, 0, 100), net.IPv4(10, 3, 0, 100), net.IPv4(192, 0, 2, 1)
	for name, test := range map[string]struct {
		link netlink.Link
		want int
	}{
		"gre":               {&netlink.Gretun{Local: ours, Remote: peer}, 1},
		"gretap":            {&netlink.Gretap{Local: ours, Remote: peer}, 1},
		"ipip":              {&netlink.Iptun{Local: ours, Remote: peer}, 1},
		"sit":               {&netlink.Sittun{Local: ours, Remote: peer}, 1},
		"vti":               {&netlink.Vti{Local: ours, Remote: peer}, 1},
		"vxlan":             {&netlink.Vxlan{SrcAddr: ours, Group: peer}, 1},
		"ip6tnl":            {&netlink.Ip6tnl{Local: net.ParseIP("2001:db8:4::100")}, 1},
		"from another NIC":  {&netlink.Gretun{Local: others, Remote: peer}, 0},
		"from any address":  {&netlink.Vxlan{Group: peer}, 0},
		"a plain interface": {&netlink.Dummy{}, 0},
	} {
		isMeant := func(a netip.Addr) bool {
			return a == testhost.Address("10.4.0.100") || a == testhost.Address("2001:db8:4::100")
		}
		o := &openings{Known: &Known{Links: []netlink.Link{test.link}}, isMeant: isMeant, found: usesSet{}}
		o.tunnels()
		if len(o.found) != test.want {
			t.Errorf("%s: %d uses, not %d", name, len(o.found), test.want)
		}
	}
}

// TestAskers: what this host opens to a peer that asked by itself is related to that, or what has a port of the question alone.
func TestAskers(t *testing.T) {
	const own, stranger, peer, asked = "10.4.0.100:40000", "192.0.2.9:443", "192.0.2.1:443", "10.4.0.100:69"
	for _, test := range []struct {
		name        string
		relates     flows.Relation
		protocol    uint8
		local, from string
		want        bool
	}{
		{"nothing", flows.RelatesNothing, unix.IPPROTO_UDP, own, peer, false},
		{"a conversation", flows.RelatesAll, unix.IPPROTO_TCP, own, "192.0.2.1:9", true},
		{"a stranger", flows.RelatesAll, unix.IPPROTO_TCP, own, stranger, false},
		{"the port of the peer", flows.RelatesPorts, unix.IPPROTO_UDP, own, peer, true},
		{"the own port", flows.RelatesPorts, unix.IPPROTO_UDP, asked, "192.0.2.1:9", true},
		{"other ports", flows.RelatesPorts, unix.IPPROTO_UDP, own, "192.0.2.1:9", false},
		{"no datagrams", flows.RelatesPorts, unix.IPPROTO_TCP, own, peer, false},
	} {
		a := AskersIn([]flows.Flow{{Protocol: "udp", Peer: "192.0.2.1", PeerPort: 443, Self: "10.4.0.100", SelfPort: 69, Relates: test.relates}})
		u := snapshot.Use{Protocol: test.protocol, Local: netip.MustParseAddrPort(test.local), Remote: netip.MustParseAddrPort(test.from)}
		if got := a.Relate(&u); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
		if u.Remote = (netip.AddrPort{}); a.Relate(&u) {
			t.Errorf("%s: what has no peer is related", test.name)
		}
	}
}

// TestSuppose: without a flow table an accepted connection stands for one, and what this host opened does not.
func TestSuppose(t *testing.T) {
	const own, peer = "10.4.0.100:22", "192.0.2.1:5"
	connection := sockets.Socket{State: sockets.Established, Local: netip.MustParseAddrPort(own), Remote: netip.MustParseAddrPort(peer)}
	use := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: netip.MustParseAddrPort("10.4.0.100:40000"), Remote: netip.MustParseAddrPort(peer)}
	listener := sockets.Socket{State: netlink.TCP_LISTEN, Local: netip.MustParseAddrPort("0.0.0.0:22")}
	for _, test := range []struct {
		askers Askers
		tcp    []sockets.Socket
		want   bool
	}{
		{nil, []sockets.Socket{listener, connection}, true},
		{nil, []sockets.Socket{connection}, false},
		{Askers{}, []sockets.Socket{listener, connection}, false},
	} {
		o := &openings{Known: &Known{TCP: test.tcp, Askers: test.askers}}
		if o.suppose(); o.Askers.Relate(&use) != test.want {
			t.Errorf("%+v: not %v", test, test.want)
		}
	}
}
