// SPDX-License-Identifier: Apache-2.0

// Package flows reads and clears the flow tables by way of their pins; it works
// without the daemon.
package flows

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/finding"
)

// Flow is an inbound flow as the operator sees it. The JSON names are fixed.
type Flow struct {
	Event            string  `json:"event,omitempty"` // when following: new, moved, ended
	Protocol         string  `json:"protocol"`
	Family           string  `json:"family"`
	Peer             string  `json:"peer"`
	PeerPort         uint16  `json:"peer_port"` // echo: the identifier
	Self             string  `json:"self"`
	SelfPort         uint16  `json:"self_port"`
	Interface        *string `json:"interface"` // nil once it is gone
	NextHopMAC       *string `json:"next_hop_mac"`
	Gateway          *string `json:"gateway"` // nil where replies go to the inbound MAC
	Verdict          *string `json:"verdict"` // WayLastHop or WayDirectReturn, as handshakes taught; nil: by the rule of next_hop
	State            string  `json:"state"`
	AgeSeconds       float64 `json:"age_seconds"`  // since the flow began
	IdleSeconds      float64 `json:"idle_seconds"` // since its last inbound frame, to about a second
	CorrectedPackets uint64  `json:"corrected_packets"`
	Asymmetric       bool    `json:"asymmetric"` // the kernel chose another way at least once
	Closing          bool    `json:"closing"`    // TCP, after FIN or RST
	Bytes            *uint64 `json:"bytes"`      // of TCP payload that this host sent; nil: not known
	// The kernel's choice as its routes are now, of asymmetric flows that are shown; NoInterface where it has none. Of what
	// the host originated: that of the last packet. It is nil where it is not known.
	KernelInterface *string `json:"kernel_interface"`
	InterfaceID     uint16  `json:"-"`                 // of the life of the interface, as the programs know it
	Outcome         string  `json:"outcome,omitempty"` // of what the host originated: what became of it
	// Relates tells what the host opens goes by the flow's interface; of what it originated, RelatesAll: that did.
	Relates Relation `json:"-"`
	// Sender is who brought its frames. Unanswered says that what answered its handshake may leave by several ways, and that the
	// peer asks again: a scan does not. Retried says that it left by several.
	Sender     bpf.DatapathSender `json:"-"`
	Unanswered bool               `json:"-"`
	Retried    bool               `json:"-"`
}

// GoesOn tells of a flow of which not all came at once.
func (f *Flow) GoesOn() bool { return f.AgeSeconds-f.IdleSeconds >= 1 }

// IsDirect tells of a flow whose replies go as routed, as handshakes taught.
func (f *Flow) IsDirect() bool { return f.Verdict != nil && *f.Verdict == WayDirectReturn }

// NextHop is where replies go, in a word.
func (f *Flow) NextHop() string {
	if f.IsDirect() {
		return "as routed"
	}
	return finding.OrEmpty(f.NextHopMAC)
}

// Relation is what the host opens that goes by the interface of a flow, as its peer comes there by itself.
type Relation uint8

// The relations of flows.
const (
	RelatesNothing Relation = iota
	RelatesPorts            // datagrams by one of its ports, or to one
	RelatesAll              // what is between its addresses
)

// States of a flow.
const (
	StateHalfOpen       = "half-open"
	StateEstablished    = "established"
	StateConnectionless = "connectionless"
)

// Events of a followed table.
const (
	EventNew   = "new"
	EventMoved = "moved"
	EventEnded = "ended"
)

func isAsymmetric(flow *bpf.DatapathFlow) bool {
	return flow.State&uint8(bpf.DatapathFlowStateFLOW_ASYMMETRIC) != 0
}

func isAnswered(flow *bpf.DatapathFlow) bool {
	return flow.State&uint8(bpf.DatapathFlowStateFLOW_REPLIED) != 0
}

// idleSeconds is idle_limit() of bpf/src/flow.h.
func idleSeconds(flow *bpf.DatapathFlow, state string) bpf.DatapathIdleSeconds {
	protocol := flow.Tuple.Protocol
	switch {
	case state == StateEstablished && flow.IsClosing():
		return bpf.DatapathIdleSecondsIDLE_CLOSING
	case state == StateEstablished:
		return bpf.DatapathIdleSecondsIDLE_ESTABLISHED
	case state == StateHalfOpen:
		return bpf.DatapathIdleSecondsIDLE_HALF_OPEN
	case protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6:
		return bpf.DatapathIdleSecondsIDLE_ECHO
	default:
		return bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS
	}
}

// isIdle tells whether the datapath takes this entry for none.
func isIdle(flow *bpf.DatapathFlow, state string, clock datapath.Clock) bool {
	limit := time.Duration(idleSeconds(flow, state)) * time.Second
	spoke := flow.SndUna // of what has no connection: see struct flow in bpf/src/types.h
	return clock.Since(flow.Seen) > limit && !(state == StateConnectionless && isAnswered(flow) && clock.Since(spoke) <= limit)
}

// isStray tells of an entry that is no flow: it says by which way something came
// that nobody here takes, for the kernel's own answer.
func isStray(flow *bpf.DatapathFlow) bool {
	return flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_STRAY) != 0
}

func isNone(flow *bpf.DatapathFlow, state string, clock datapath.Clock) bool {
	return isStray(flow) || isIdle(flow, state, clock)
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// String names the tuple, for logs and errors.
func (f *Flow) String() string {
	endpoint := func(address string, port uint16) string { return net.JoinHostPort(address, fmt.Sprint(port)) }
	return fmt.Sprintf("%s %s > %s", f.Protocol, endpoint(f.Peer, f.PeerPort), endpoint(f.Self, f.SelfPort))
}
