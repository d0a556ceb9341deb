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

// asks notes that the peer of a flow of datagrams asked by it, if the repair of sources is in
// one of these states. Of a peer that asks several addresses by one port each datagram
// counts from then on.
func (m *Model) asks(t Tuple, states ...bpf.DatapathSourceRepair) {
	_, own := m.Host.OwnAddresses[netip.AddrFrom16(t.Self).Unmap()]
	if !own || t.Protocol != protoUDP || !slices.Contains(states, m.Host.Repair) {
		return
	}
	asker := Asker{t.Peer, t.PeerPort, t.SelfPort}
	before, known := m.Asked[asker]
	m.Asked[asker] = t
	if !known || before == t {
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
