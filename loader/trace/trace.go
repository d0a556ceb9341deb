// SPDX-License-Identifier: Apache-2.0

// Package trace tells of packets as they pass the programs. It reads what they
// write into a ring buffer while somebody asks for it, and needs no daemon.
package trace

import (
	"errors"
	"net/netip"
	"time"
)

// Filter selects packets; the zero Filter selects all.
type Filter struct {
	Peer netip.Prefix // not valid: any
	Self netip.Addr   // not valid: any
}

// Directions.
const (
	Inbound  = "in"
	Outbound = "out"
)

// Forms of packets. The tuple of the last two is that of the flow that they
// belong to, where there is one.
const (
	EchoRequest = "echo-request"
	EchoReply   = "echo-reply"
	ICMPError   = "icmp-error" // about a packet of the flow
	Fragment    = "fragment"   // a later one, which has no ports
)

// Verdicts beside those of package explain.
const (
	// Of packets that came in.
	New     = "new"     // a flow begins, or a connection is established
	Known   = "known"   // of a known flow, by its own way
	Moved   = "moved"   // the flow follows the packet to this way
	Refused = "refused" // of a known flow by another way, which it does not follow; with a reason
	Ignored = "ignored" // of no flow; with a reason where it is known
	// Of packets that go out.
	Unseen   = "unseen"   // redirected to the flow's interface, and not seen to leave there
	Returned = "returned" // not sent: too large for the flow's interface, or nobody has the MAC of its next hop; the sender may be told
)

// Packet is a packet that passed. The JSON names are fixed.
type Packet struct {
	Time      time.Time `json:"time"`
	Direction string    `json:"direction"`
	Protocol  string    `json:"protocol"`
	Family    string    `json:"family"`
	Peer      string    `json:"peer"`
	PeerPort  uint16    `json:"peer_port"` // echo: the identifier
	Self      string    `json:"self"`
	SelfPort  uint16    `json:"self_port"`
	TCPFlags  *string   `json:"tcp_flags"` // "SA"; nil for other protocols
	Form      *string   `json:"form"`      // nil for a plain packet
	Length    uint32    `json:"length"`    // bytes of the frame, of all its segments together
	Packets   uint16    `json:"packets"`   // that it is on the wire: more than 1 with segmentation offload

	InterfaceIn *string `json:"interface_in"` // by which it came in, or its flow did; nil without a flow
	SourceMAC   *string `json:"source_mac"`   // inbound
	Kernel      Way     `json:"kernel"`       // outbound: the kernel's choice
	Out         Way     `json:"out"`          // outbound: where it leaves; nil where it does not
	Verdict     string  `json:"verdict"`
	Reason      *string `json:"reason"`
	// SeenLeaving tells whether the packet was seen at the interface that it
	// leaves by; nil for packets that came in, and where a lost event would tell.
	SeenLeaving *bool  `json:"seen_leaving"`
	Lost        uint64 `json:"lost"` // so many events were lost before this one
}

// Way is an interface and a next hop there.
type Way struct {
	Interface  *string `json:"interface"`
	NextHopMAC *string `json:"next_hop_mac"`
}

// ErrBusy says that somebody traces already: there is one buffer.
var ErrBusy = errors.New("another trace is running")
