package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"replypath/loader/discover"
	"replypath/loader/flows"
)

// Traffic is what replypath has seen of packets.
type Traffic struct {
	Flows     []flows.Flow
	FlowError string // why the flow table cannot be read, empty where there is none or it can
	WrongWays []WrongWay
}

// Counted is what a datapath has counted for a pair of interfaces since it was pinned.
type Counted struct {
	From, To              string // the kernel's choice, empty for replypath's own device; the flow's interface
	Asymmetric, Corrected uint64
	Uncorrected           map[string]uint64 // packets, by reason
}

// WrongWay is what leaves by another interface than it should, now.
type WrongWay struct {
	From, To string // as in Counted
	Reason   string // of the metrics, or ReasonLost
	Packets  uint64 // since it was pinned
	Grown    uint64 // of these, while the snapshot was taken
	Took     time.Duration
	Flows    int // alive, with the kernel's route leading by From
}

// Reasons that more than a text depends on.
const (
	ReasonObserve  = "observe"
	ReasonLinkDown = "link_down"
	// ReasonLost is no label: the packets were handed to the right interface, and not seen leaving there.
	ReasonLost = "lost"
)

// Unnamed visits the flows of a managed interface that came through no gateway that a route names.
func (t *Traffic) Unnamed(name string, visit func(f *flows.Flow, peer netip.Addr)) {
	for n := range t.Flows {
		f := &t.Flows[n]
		peer, err := netip.ParseAddr(f.Peer)
		if err == nil && f.Interface != nil && *f.Interface == name && f.Gateway == nil {
			visit(f, peer)
		}
	}
}

// LastHopPeers names the on-link peers of an interface's flows whose frames come
// from a MAC that is not theirs.
func (h *Host) LastHopPeers(i *discover.Interface) []string {
	owners := h.OwnersOfMACs(i.Index)
	var peers []string
	h.Unnamed(i.Name, func(f *flows.Flow, peer netip.Addr) {
		if f.NextHopMAC == nil || !h.IsOnLink(i.Index, peer) || h.isGateway(i.Index, peer) {
			return
		}
		owner := owners[*f.NextHopMAC]
		if len(owner) == 0 || slices.Contains(owner, peer) {
			return
		}
		// Several addresses of one host look alike, unless the peer is known by
		// another MAC, or the owner for a router.
		if h.isNeighbour(i.Index, peer) || h.isGateway(i.Index, owner[0]) {
			peers = append(peers, fmt.Sprintf("%s from %s (%s)", peer, *f.NextHopMAC, owner[0]))
		}
	})
	slices.Sort(peers)
	return slices.Compact(peers)
}

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
