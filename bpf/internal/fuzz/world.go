// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"net"
	"net/netip"
)

// The world of the programs: a host with three devices, a few peers, and every
// kind of address that is none of an ordinary peer.

const (
	devices           = 3
	gatewaysPerDevice = 4 // two of each family
	cameBy            = 1 // a device, by which what is forwarded came in
)

// network is one address family.
type network struct {
	family uint8
	peers  [8]netip.Addr
	selves [16]netip.Addr
	onLink netip.Prefix // has peers[3]
	routed netip.Prefix // has the first peers, but not peers[4]
}

// Indexes into network's lists.
const (
	loopbackOnly = 4
	notOwn       = 5
	ownSelves    = 5 // so many are the host's
)

var networks = [4]network{ipv4, ipv6, ipv4.withoutMACs(), ipv6.withoutMACs()}

var (
	ipv4 = network{
		family: 4,
		peers: addresses8("10.2.0.100", "10.2.0.100", "0.1.0.100", "10.4.0.7", "240.1.100.7", "10.2.0.101",
			"10.4.0.100", "127.0.0.1"),
		selves: addresses16("10.4.0.100", "10.4.0.100", "240.4.0.100", "10.3.0.100", "10.5.0.100", "10.9.0.9",
			"10.4.0.100", "10.6.0.100", "10.3.0.100", "10.4.0.100", "10.4.0.100", "10.3.0.100",
			"10.4.0.100", "224.0.0.1", "255.255.255.255", "169.254.1.1"),
		onLink: netip.MustParsePrefix("10.4.0.0/24"),
		routed: netip.MustParsePrefix("10.2.0.0/25"),
	}
	ipv6 = network{
		family: 6,
		peers: addresses8("fd00:2::100", "fd00:2::100", "fd00:2::100", "fd00:4::7", "2001:db8::7", "fd00:2::101",
			"fd00:4::100", "fe80::7"),
		selves: addresses16("fd00:4::100", "fd00:4::100", "fd00:4::100", "fd00:3::100", "fd00:5::100", "fd00:9::9",
			"fd00:4::100", "fd00:6::100", "fd00:3::100", "fd00:4::100", "fd00:4::100", "fd00:3::100",
			"fd00:4::100", "ff02::1", "::1", "fe80::1"),
		onLink: netip.MustParsePrefix("fd00:4::/64"),
		routed: netip.MustParsePrefix("fd00:2::/63"),
	}
)

// withoutMACs is the same for programs with a device without an Ethernet header: the test run takes the protocol from
// the 13th and 14th byte of what it is given, where an IP header has two bytes of the source address.
func (n network) withoutMACs() network {
	change := func(a netip.Addr) netip.Addr {
		switch bytes := a.AsSlice(); {
		case n.family == 6 && bytes[0] > 0 && bytes[0] < 0xff:
			bytes[4], bytes[5] = 0x86, 0xdd
			a, _ = netip.AddrFromSlice(bytes)
		case n.family == 4 && (bytes[0] < 127 || bytes[0] == 240):
			a = netip.AddrFrom4([4]byte{8, 0, bytes[1] + bytes[2], bytes[3]})
		}
		return a
	}
	for i, a := range n.peers {
		n.peers[i] = change(a)
	}
	for i, a := range n.selves {
		n.selves[i] = change(a)
	}
	n.onLink = netip.PrefixFrom(change(n.onLink.Addr()), n.onLink.Bits())
	n.routed = netip.PrefixFrom(change(n.routed.Addr()), n.routed.Bits())
	return n
}

func addresses8(texts ...string) [8]netip.Addr   { return [8]netip.Addr(addresses(texts)) }
func addresses16(texts ...string) [16]netip.Addr { return [16]netip.Addr(addresses(texts)) }

func addresses(texts []string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

var (
	peerPorts = [2]uint16{40000, 40001}
	selfPorts = [8]uint16{5432, 5432, 5432, 5432, 5433, 5434, 67, 546}
)

// Where the sequence numbers of a conversation without a socket begin.
const (
	peerISN = 5000
	ourISN  = 70000
)

// echoIdentifier stands for an echo's ports; the second port is the next one.
const echoIdentifier = 0x5050

func routerMAC(device int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, byte(device + 1)} }
func secondRouterMAC(device int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 2, byte(device + 1)}
}

var (
	neighbourMAC = net.HardwareAddr{2, 0, 0, 0, 1, 0x99}
	groupMAC     = net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}
	zeroMAC      = net.HardwareAddr{0, 0, 0, 0, 0, 0}
	strangerMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 0x98}
	broadcastMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}
)

func (n neighbour) mac(device int) net.HardwareAddr {
	switch n {
	case router:
		return routerMAC(device)
	case secondRouter:
		return secondRouterMAC(device)
	case onLinkHost:
		return neighbourMAC
	case group:
		return groupMAC
	default:
		return zeroMAC
	}
}
