package snapshot

import (
	"net/netip"

	"replypath/loader/flows"
)

// Connections are what this host has open.
type Connections struct {
	Sockets []Socket
	// Uses are what this host opened from addresses that rules select by.
	Uses []Use
	// UsesError is why they cannot be told, empty where they can.
	UsesError string
}

// Socket is a UDP socket.
type Socket struct {
	Local, Remote netip.AddrPort // Remote is not valid where it is not connected
	Process       string         // name of one that has it open, empty where not known
}

// Use is a connection that this host opened, or a tuple by which it spoke first.
type Use struct {
	Protocol      uint8
	Local, Remote netip.AddrPort
}

// OpenedFrom counts what this host opened from the addresses of a prefix.
func (c *Connections) OpenedFrom(p netip.Prefix) int {
	count := 0
	for _, u := range c.Uses {
		if p.Contains(u.Local.Addr()) {
			count++
		}
	}
	return count
}

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
