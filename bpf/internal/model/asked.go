// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"

	"replypath/bpf"
)

// Asker is what a socket that is bound to no address tells of whom it answers: the peer's
// address and port, and its own port.
type Asker struct {
	Peer     [16]uint8
	PeerPort uint16 // both in network byte order, as in a tuple
	SelfPort uint16
}

// forWildcard says whether a datagram that comes in by a tuple is for a socket that is bound to no
// address.
func (m *Model) forWildcard(t Tuple) bool {
	self := netip.AddrFrom16(t.Self).Unmap()
	_, own := m.Host.OwnAddresses[self]
	port := network(t.SelfPort) // and back
	return own && !m.Sockets.ConnectedUDP[t] && !m.Sockets.OpenUDP[netip.AddrPortFrom(self, port)] &&
		m.Sockets.OpenUDP[netip.AddrPortFrom(netip.IPv6Unspecified(), port)]
}

// IsBegun says whether the host began by this tuple and was answered.
func (m *Model) IsBegun(t Tuple) bool { return m.noted(t) && m.Outbound[t].Answered }

// answers notes that the peer answered what the host began by a tuple.
func (m *Model) answers(t Tuple) {
	if m.forWildcard(t) {
		m.Asked[Asker{t.Peer, t.PeerPort, t.SelfPort}] = t
	}
}

// asks notes that the peer of a flow of datagrams asked by it, if the repair of sources is in
// one of these states, unless the host began with that peer. Of a peer that asks several
// addresses by one port each datagram counts from then on.
func (m *Model) asks(t Tuple, states ...bpf.DatapathSourceRepair) {
	asker := Asker{t.Peer, t.PeerPort, t.SelfPort}
	before, known := m.Asked[asker]
	if t.Protocol != protoUDP || !slices.Contains(states, m.Host.Repair) ||
		known && (before == t || m.IsBegun(before)) || !m.forWildcard(t) {
		return
	}
	m.Asked[asker] = t
	if !known {
		return
	}
	other, live := m.connectionless(before)
	if !live {
		return
	}
	f := m.Connectionless[t]
	f.Flags |= flagAlternates
	other.Flags |= flagAlternates
	m.Connectionless[t], m.Connectionless[before] = f, other
}
