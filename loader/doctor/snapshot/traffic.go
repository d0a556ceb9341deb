// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"net/netip"
	"time"

	"replypath/loader/flows"
	"replypath/loader/sockets"
)

// Traffic is what replypath has seen of packets.
type Traffic struct {
	Flows     []flows.Flow
	FlowError string // why the flow table cannot be read, empty where there is none or it can
	WrongWays []WrongWay
	OwnWays   []OwnWay
}

// OwnWay is by which device the kernel sends what an own address sends to peers beyond its network; "" if nowhere.
type OwnWay struct {
	Address netip.Prefix
	On, By  string
	Device  int  // By
	Refused bool // by a route or a rule
}

// WrongWay is what leaves by another interface than it should, now.
type WrongWay struct {
	From, To string // the kernel's choice, empty for replypath's own device; the flow's interface
	Reason   string // of the metrics, or ReasonLost
	Packets  uint64 // since it was pinned
	Grown    uint64 // of these, while the snapshot was taken
	Took     time.Duration
	Flows    int  // alive, with the kernel's route leading by From
	Answered bool // some of these were answered before
}

// Reasons that more than a text depends on.
const (
	ReasonObserve  = "observe"
	ReasonLinkDown = "link_down"
	// ReasonLost is no label: the packets were handed to the right interface, and not seen leaving there.
	ReasonLost = "lost"
	// ReasonNoRoute, ReasonNotManaged are of explain: a route or a rule refuses the replies; they leave by From, where no program of
	// ours is.
	ReasonNoRoute, ReasonNotManaged = "no_route", "not_managed"
	// ReasonTunnel: what the packets asked for is an address of From; To is a tunnel that the configuration did not name.
	ReasonTunnel = "unnamed_tunnel"
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

// Translation is a destination that tracked connections are translated from.
type Translation struct {
	Address, Target netip.Addr // of the first connection
	Count           int
}

// Connections are what this host has open.
type Connections struct {
	// Translations are of what comes from other hosts.
	Translations []Translation
	Sockets      []sockets.Socket // of UDP
	// ProcessOf names one that has a socket open, "" where it is not known. It looks when it is first asked.
	ProcessOf func(*sockets.Socket) string
	// Uses are what this host opened from addresses that rules select by.
	Uses []Use
	// UsesError is why they cannot be told, empty where they can.
	UsesError string
	// SocketMarks are those that sockets give their packets.
	SocketMarks []uint32
}

// Use is a connection that this host opened, or a tuple by which it spoke first.
type Use struct {
	Protocol      uint8
	Local, Remote netip.AddrPort
	Over          bool // it has ended, and is still known
	Related       bool // to what its peer began by the interface of the address
}
