// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"net/netip"

	"replypath/bpf"
)

// Tuple is the tuple of a peer and an own address with their ports.
func Tuple(protocol uint8, peer, self netip.AddrPort) bpf.DatapathTuple {
	return bpf.DatapathTuple{
		Peer:     peer.Addr().As16(),
		Self:     self.Addr().As16(),
		PeerPort: Port(peer.Port()),
		SelfPort: Port(self.Port()),
		Protocol: protocol,
	}
}

// Port is a port in network byte order, as the maps hold it.
func Port(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
