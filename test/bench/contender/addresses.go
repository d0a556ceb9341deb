// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"encoding/binary"
	"net/netip"

	"replypath/test/topology"
)

// Addresses are those of a site for one family.
type Addresses struct {
	Family topology.Family
	// Self is the server's address that is asked.
	Self netip.Addr
	// Peer is where questions come from, unless a load has many clients.
	Peer netip.Addr

	// Neighbour is the client's address on eth0, to which the default route leads.
	Neighbour netip.Addr

	production netip.Addr // the server's on eth0
	gateway    netip.Addr // the client's on eth1
	// network is the length of their networks.
	network int
	// peers are all who ask. The client has those in clients and drops what is sent to the others.
	peers, clients netip.Prefix
	// rules is the prefix of addresses that other rules are for.
	rules netip.Prefix
}

// IPv4 has the addresses of the usual site.
var IPv4 = Addresses{
	Family: topology.IPv4, Self: netip.MustParseAddr("10.2.0.100"), Peer: netip.MustParseAddr("10.128.0.1"),
	production: netip.MustParseAddr("10.1.0.100"), Neighbour: netip.MustParseAddr("10.1.0.1"),
	gateway: netip.MustParseAddr("10.2.0.1"), network: 24,
	peers: netip.MustParsePrefix("10.128.0.0/9"), clients: netip.MustParsePrefix("10.128.0.0/10"),
	rules: netip.MustParsePrefix("10.3.0.0/16"),
}

// IPv6 has those of a site that is asked by IPv6.
var IPv6 = Addresses{
	Family: topology.IPv6, Self: netip.MustParseAddr("2001:db8:2::100"), Peer: netip.MustParseAddr("2001:db8:80::1"),
	production: netip.MustParseAddr("2001:db8:1::100"), Neighbour: netip.MustParseAddr("2001:db8:1::1"),
	gateway: netip.MustParseAddr("2001:db8:2::1"), network: 64,
	peers: netip.MustParsePrefix("2001:db8:80::/48"), clients: netip.MustParsePrefix("2001:db8:80::/106"),
	rules: netip.MustParsePrefix("2001:db8:3::/64"),
}

// strays are peers that nobody is.
var strays = netip.MustParsePrefix("10.192.0.0/10")

// StrayAt returns an IPv4 address that a question can come from, and that nobody has.
func StrayAt(index uint32) netip.Addr { return at(strays, index) }

// ClientAt returns one of the client's four million addresses.
func (a *Addresses) ClientAt(index uint32) netip.Addr { return at(a.clients, index) }

// at returns an address of a prefix whose number has no more bits than there are.
func at(prefix netip.Prefix, index uint32) netip.Addr {
	bytes := prefix.Addr().AsSlice()
	low := bytes[len(bytes)-4:]
	number := index
	if bits := prefix.Addr().BitLen() - prefix.Bits(); bits < 32 {
		number &= 1<<bits - 1
	}
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)|number)
	address, _ := netip.AddrFromSlice(bytes) // of a length that there is
	return address
}
