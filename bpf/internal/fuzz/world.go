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

var networks = [4]network{
	{
		family: 4,
		peers: addresses8("10.2.0.100", "10.2.0.100", "0.1.0.100", "10.4.0.7", "240.1.100.7", "10.2.0.101",
			"10.4.0.100", "127.0.0.1"),
		selves: addresses16("10.4.0.100", "10.4.0.100", "240.4.0.100", "10.3.0.100", "10.5.0.100", "10.9.0.9",
			"10.4.0.100", "10.6.0.100", "10.3.0.100", "10.4.0.100", "10.4.0.100", "10.3.0.100",
			"10.4.0.100", "224.0.0.1", "255.255.255.255", "169.254.1.1"),
		onLink: netip.MustParsePrefix("10.4.0.0/24"),
		routed: netip.MustParsePrefix("10.2.0.0/25"),
	},
	{
		family: 6,
		peers: addresses8("fd00:2::100", "fd00:2::100", "fd00:2::100", "fd00:4::7", "2001:db8::7", "fd00:2::101",
			"fd00:4::100", "fe80::7"),
		selves: addresses16("fd00:4::100", "fd00:4::100", "fd00:4::100", "fd00:3::100", "fd00:5::100", "fd00:9::9",
			"fd00:4::100", "fd00:6::100", "fd00:3::100", "fd00:4::100", "fd00:4::100", "fd00:3::100",
			"fd00:4::100", "ff02::1", "::1", "fe80::1"),
		onLink: netip.MustParsePrefix("fd00:4::/64"),
		routed: netip.MustParsePrefix("fd00:2::/63"),
	},
	// The same for programs with a device without an Ethernet header: the test run
	// takes the protocol from the 13th and 14th byte of what it is given, where an
	// IP header has two bytes of the source address.
	{
		family: 4,
		peers: addresses8("8.0.2.100", "8.0.2.100", "8.0.2.100", "8.0.4.7", "8.0.100.7", "8.0.2.101",
			"8.0.4.100", "127.0.0.1"),
		selves: addresses16("8.0.4.100", "8.0.4.100", "8.0.4.100", "8.0.3.100", "8.0.5.100", "8.0.9.9",
			"8.0.4.100", "8.0.6.100", "8.0.3.100", "8.0.4.100", "8.0.4.100", "8.0.3.100",
			"8.0.4.100", "224.0.0.1", "255.255.255.255", "169.254.1.1"),
		onLink: netip.MustParsePrefix("8.0.4.0/24"),
		routed: netip.MustParsePrefix("8.0.2.0/25"),
	},
	{
		family: 6,
		peers: addresses8("fd00:2:86dd::100", "fd00:2:86dd::100", "fd00:2:86dd::100", "fd00:4:86dd::7",
			"2001:db8:86dd::7", "fd00:2:86dd::101", "fd00:4:86dd::100", "fe80:0:86dd::7"),
		selves: addresses16("fd00:4:86dd::100", "fd00:4:86dd::100", "fd00:4:86dd::100", "fd00:3:86dd::100",
			"fd00:5:86dd::100", "fd00:9:86dd::9", "fd00:4:86dd::100", "fd00:6:86dd::100", "fd00:3:86dd::100",
			"fd00:4:86dd::100", "fd00:4:86dd::100", "fd00:3:86dd::100", "fd00:4:86dd::100", "ff02::1", "::1", "fe80::1"),
		onLink: netip.MustParsePrefix("fd00:4:86dd::/64"),
		routed: netip.MustParsePrefix("fd00:2:86dd::/65"),
	},
}

func addresses8(texts ...string) (list [8]netip.Addr) {
	for i, text := range texts {
		list[i] = netip.MustParseAddr(text)
	}
	return list
}

func addresses16(texts ...string) (list [16]netip.Addr) {
	for i, text := range texts {
		list[i] = netip.MustParseAddr(text)
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
