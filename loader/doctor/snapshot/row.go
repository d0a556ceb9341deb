// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"cmp"
	"net/netip"
	"strconv"
	"time"
)

// Row is what would leave by another interface without rules, with the same own end and to the same network. The JSON names
// are fixed.
type Row struct {
	Key
	Flows     uint64    `json:"flows"`
	Packets   Count     `json:"packets"` // sent by the host
	Bytes     Count     `json:"bytes"`   // of TCP's payload among it
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
}

// Count is null in JSON where nothing was counted.
type Count uint64

// MarshalJSON writes the number or null.
func (c Count) MarshalJSON() ([]byte, error) {
	if c == 0 {
		return []byte("null"), nil
	}
	return strconv.AppendUint(nil, uint64(c), 10), nil
}

// Key is what rows are told apart by.
type Key struct {
	// Originated tells what the host opened, or spoke first in, from replies.
	Originated bool         `json:"originated"`
	Self       netip.Addr   `json:"self"`
	SelfPort   uint16       `json:"self_port"` // 0 of what the host opened: its port is chance
	Protocol   string       `json:"protocol"`
	Peer       netip.Prefix `json:"peer"`      // a /24 or a /64
	PeerPort   uint16       `json:"peer_port"` // of what the host opened; else 0
	// FromInterface is that of the route to the peer which regards neither source nor mark: kernelroute.None without a route.
	FromInterface string `json:"from_interface"`
	ToInterface   string `json:"to_interface"` // that the peer asked by, or that has the own address
	// Related tells of what the host opened that its peer had come by that interface, by itself.
	Related bool `json:"related,omitempty"`
}

// NetworkOf is the network that a peer is counted with.
func NetworkOf(peer netip.Addr) netip.Prefix {
	bits := 24
	if peer.Is6() {
		bits = 64
	}
	network, _ := peer.Prefix(bits) // these lengths are of any address
	return network
}

// Compare orders rows: those of most flows first, and then those that were seen last.
func (r *Row) Compare(other *Row) int {
	return cmp.Or(cmp.Compare(other.Flows, r.Flows), other.LastSeen.Compare(r.LastSeen), r.Self.Compare(other.Self),
		cmp.Compare(r.SelfPort, other.SelfPort), r.Peer.Addr().Compare(other.Peer.Addr()), cmp.Compare(r.PeerPort, other.PeerPort),
		cmp.Compare(r.Protocol, other.Protocol), cmp.Compare(r.ToInterface, other.ToInterface), cmp.Compare(r.FromInterface, other.FromInterface))
}
