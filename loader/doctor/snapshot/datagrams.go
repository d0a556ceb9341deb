// SPDX-License-Identifier: Apache-2.0

package snapshot

import "replypath/loader/flows"

// Datagrams is what the flow table and the sockets tell of UDP.
type Datagrams struct {
	flows     map[datagram]*flows.Flow
	wildcards map[uint16]bool // ports
	several   bool            // the host has more than one interface to choose from
}

// datagram tells a conversation, but for the own address.
type datagram struct {
	peer               string
	peerPort, selfPort uint16
}

// Datagrams gathers what is asked of connected sockets.
func (h *Host) Datagrams() *Datagrams {
	d := &Datagrams{flows: map[datagram]*flows.Flow{}, wildcards: map[uint16]bool{}, several: len(h.Interfaces) > 1}
	for n := range h.Flows {
		if f := &h.Flows[n]; f.Protocol == "udp" {
			d.flows[datagram{f.Peer, f.PeerPort, f.SelfPort}] = f
		}
	}
	for _, s := range h.Sockets {
		if !s.Remote.IsValid() && s.Local.Addr().IsUnspecified() {
			d.wildcards[s.Local.Port()] = true
		}
	}
	return d
}

// Elsewhere returns the flow of a connected socket's peer and ports whose own
// address is another than the socket's.
func (d *Datagrams) Elsewhere(s *Socket) *flows.Flow {
	if !s.Remote.IsValid() {
		return nil
	}
	f := d.flows[datagram{s.Remote.Addr().String(), s.Remote.Port(), s.Local.Port()}]
	if f == nil || f.Self == s.Local.Addr().String() {
		return nil
	}
	return f
}

// IsSuspicious tells a connected socket beside a wildcard one on its port.
func (d *Datagrams) IsSuspicious(s *Socket) bool {
	return d.several && s.Remote.IsValid() && !s.Remote.Addr().IsLoopback() && d.wildcards[s.Local.Port()]
}
