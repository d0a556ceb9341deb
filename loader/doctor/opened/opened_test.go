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
		o := finding(&Known{Links: []netlink.Link{test.link}}, isMeant)
		o.tunnels()
		if len(o.found) != test.want {
			t.Errorf("%s: %d uses, not %d", name, len(o.found), test.want)
		}
	}
}

// finding is where nothing has been found.
func finding(k *Known, isMeant func(netip.Addr) bool) *Openings {
	return &Openings{
		known: k, isMeant: isMeant, accepts: map[netip.AddrPort]bool{}, begun: map[snapshot.Use]bool{}, found: map[snapshot.Use]bool{},
		asked: map[uint64]bool{},
	}
}

func all(netip.Addr) bool  { return true }
func none(netip.Addr) bool { return false }

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
		f := &flows.Flow{Protocol: "udp", Peer: "192.0.2.1", PeerPort: 443, Self: "10.4.0.100", SelfPort: 69, Relates: test.relates}
		u := snapshot.Use{Protocol: test.protocol, Local: netip.MustParseAddrPort(test.local), Remote: netip.MustParseAddrPort(test.from)}
		lonely := snapshot.Use{Protocol: test.protocol, Local: u.Local}
		o := finding(&Known{}, all)
		o.AskRelation(&u)
		o.AskRelation(&lonely)
		if o.Note(f); o.Relates(&u) != test.want {
			t.Errorf("%s: not %v", test.name, test.want)
		}
		if o.Relates(&lonely) {
			t.Errorf("%s: what has no peer is related", test.name)
		}
	}
}

// TestAskedFor: a socket whose peer began is nothing that this host opened, unless the kernel says otherwise, or its port is one
// that servers ask by.
func TestAskedFor(t *testing.T) {
	const own, peer = "10.4.0.100:50000", "192.0.2.1:443"
	socket := func(local, remote string) sockets.Socket {
		s := sockets.Socket{State: sockets.Established, Local: netip.MustParseAddrPort(local)}
		if remote != "" {
			s.Remote = netip.MustParseAddrPort(remote)
		}
		return s
	}
	tracked := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: netip.MustParseAddrPort(own), Remote: netip.MustParseAddrPort(peer)}
	for _, test := range []struct {
		name, protocol string
		socket         sockets.Socket
		flow           netip.AddrPort // own end
		isTracked      bool
		want           int
	}{
		{"tcp, asked for", "tcp", socket(own, peer), netip.MustParseAddrPort(own), false, 0},
		{"tcp, asked for and tracked as ours", "tcp", socket(own, peer), netip.MustParseAddrPort(own), true, 1},
		{"tcp, of another flow", "tcp", socket(own, peer), netip.MustParseAddrPort("10.4.0.100:22"), false, 1},
		{"udp, connected and asked for", "udp", socket(own, peer), netip.MustParseAddrPort(own), false, 0},
		{"udp, not connected and asked", "udp", socket(own, ""), netip.MustParseAddrPort(own), false, 0},
		{"udp, not connected, another asked", "udp", socket(own, ""), netip.MustParseAddrPort("10.4.0.100:22"), false, 1},
		{"ntp, asked", "udp", socket("10.4.0.100:123", ""), netip.MustParseAddrPort("10.4.0.100:123"), false, 1},
	} {
		o := finding(&Known{IsOwn: none}, all)
		o.begun[tracked] = test.isTracked
		if test.protocol == "udp" {
			o.datagrams([]sockets.Socket{test.socket})
		} else {
			o.connection(&test.socket)
		}
		o.ask()
		o.Note(&flows.Flow{Protocol: test.protocol, Peer: "192.0.2.1", PeerPort: 443, Self: test.flow.Addr().String(), SelfPort: test.flow.Port()})
		if uses := o.Uses(); len(uses) != test.want {
			t.Errorf("%s: %v, not %d", test.name, uses, test.want)
		}
	}
}

// TestMostUses: what is found is bounded, and said not to be all.
func TestMostUses(t *testing.T) {
	o := finding(&Known{IsOwn: none}, all)
	peer := netip.MustParseAddr("198.18.0.1")
	for range 2 * mostUses {
		peer = peer.Next()
		o.connection(&sockets.Socket{State: sockets.Established, Local: netip.MustParseAddrPort("10.4.0.100:50000"), Remote: netip.AddrPortFrom(peer, 443)})
	}
	if o.ask(); len(o.Uses()) != mostUses || !o.Incomplete {
		t.Errorf("%d uses, incomplete: %v", len(o.Uses()), o.Incomplete)
	}
}
