// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"time"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/flows"
)

// Explanation is what becomes of a reply. The JSON names are fixed.
type Explanation struct {
	Protocol *string `json:"protocol"` // nil: not asked for, and no flow tells
	Family   string  `json:"family"`
	Peer     string  `json:"peer"`
	PeerPort uint16  `json:"peer_port"`
	Self     string  `json:"self"`
	SelfPort uint16  `json:"self_port"`

	Kernel    Kernel `json:"kernel"`
	Replypath Way    `json:"replypath"`
	// LeavesBy is the interface that the packet leaves by at last; nil where the
	// kernel builds none, or where it ends at the device of the fallback route.
	LeavesBy *string     `json:"leaves_by"`
	Verdict  string      `json:"verdict"`
	Reason   *string     `json:"reason"` // as the metrics name it
	Detail   string      `json:"detail"` // verdict and reason in a sentence
	Seen     *time.Time  `json:"seen"`   // when a packet was last seen leaving so, to a second; nil: none was
	Flow     *flows.Flow `json:"flow"`   // the entry that decides, nil for none
}

// Kernel is the way that the kernel alone would send the reply.
type Kernel struct {
	Interface  *string `json:"interface"` // nil: it would not build one, see Error
	Gateway    *string `json:"gateway"`   // nil: on-link
	NextHopMAC *string `json:"next_hop_mac"`
	Table      *int    `json:"table"` // the routing table that decided
	Error      *string `json:"error"`
}

// Way is the way that belongs to the reply's flow; its fields are nil without a
// flow.
type Way struct {
	Interface  *string `json:"interface"`
	NextHopMAC *string `json:"next_hop_mac"`
	Gateway    *string `json:"gateway"` // nil where replies go to the inbound MAC
}

// newExplanation names what is asked about.
func newExplanation(q *Question) Explanation {
	e := Explanation{
		Family: "ipv6",
		Peer:   q.Peer.Addr().String(), PeerPort: q.Peer.Port(),
		Self: q.Self.Addr().String(), SelfPort: q.Self.Port(),
	}
	if q.Peer.Addr().Is4() {
		e.Family = "ipv4"
	}
	if q.Protocol != nil {
		e.Protocol = new(config.ProtocolName(*q.Protocol))
	}
	return e
}

// conclude writes down the verdict, and what follows from it.
func (e *Explanation) conclude(verdict, reason string) {
	e.Verdict = verdict
	if reason != "" {
		e.Reason = &reason
	}
	if verdict == DirectReturn {
		e.Replypath = Way{e.Kernel.Interface, e.Kernel.NextHopMAC, e.Kernel.Gateway}
	}
	e.Detail = e.detail(verdict, reason)
	switch {
	case moves(verdict):
		e.LeavesBy = e.Replypath.Interface
	case e.Kernel.Interface != nil && *e.Kernel.Interface == discover.OwnDevice:
		e.LeavesBy = nil
		e.Detail += "; without a default route that is " + discover.OwnDevice + ", where it ends"
	default:
		e.LeavesBy = e.Kernel.Interface
	}
}

// detail puts a verdict and its reason into words.
func (e *Explanation) detail(verdict, reason string) string {
	k, r := e.Kernel.Interface, e.Replypath.Interface
	if verdict == Corrected && k != nil && r != nil && *k == *r {
		return "the reply would leave by the kernel's interface, to the next hop that its flow came through"
	}
	switch text := verdictDetails[verdict]; {
	case verdict == Fallback:
		return fallbackDetails[reason]
	case verdict == NoFlow && noFlowDetails[reason] != "":
		return noFlowDetails[reason]
	case moves(verdict):
		return fmt.Sprintf(text, orUnknown(r))
	default:
		return text
	}
}

// verdictDetails put verdicts into words; of those that move a packet %s is the interface that it leaves by.
var verdictDetails = map[string]string{
	Corrected:    "the reply would leave by %s, by which its flow arrived",
	AlreadyRight: "the kernel sends the reply back the way that its flow came",
	StrongHost:   "host_model strong: what the host originates leaves by %s, which has its source address",
	Related:      "related: the peer comes to the source address by %s, which has it, and the packet goes as answers do",
	LocalOrigin:  "the host spoke first: what it starts goes as the kernel routes it",
	Excluded:     "the configuration excludes it: it goes as the kernel routes it",
	LastHop:      "the reply would leave by %s, back to the mac that its flow came from",
	DirectReturn: "the reply goes as routed",
	NoFlow:       "no flow is recorded: it goes as the kernel routes it, until the peer sends something",
}

// addSeen adds to what would become of a packet what was seen.
func (e *Explanation) addSeen(left flows.Left) {
	if left.Moved == moves(e.Verdict) && !left.Astray {
		e.Seen = left.At
	}
	if moves(e.Verdict) && e.Seen == nil {
		e.Detail += "; none was seen leaving so yet"
	}
}

// moves tells whether replypath decides where a packet leaves.
func moves(verdict string) bool {
	return verdict == Corrected || verdict == LastHop || verdict == StrongHost || verdict == Related
}

func orUnknown(text *string) string {
	if text == nil {
		return "an interface that is gone"
	}
	return *text
}

// Verdicts.
const (
	Corrected    = "corrected"           // leaves by the flow's interface and next hop, which the kernel did not choose
	AlreadyRight = "already-right"       // the kernel chose them itself
	NoFlow       = "no-flow"             // goes as routed: nothing came in by this tuple
	LastHop      = flows.WayLastHop      // leaves by the flow's interface to its sender's MAC, as handshakes taught
	DirectReturn = flows.WayDirectReturn // goes as routed, as handshakes taught
	StrongHost   = "strong-host"         // of no flow: leaves by the interface that has its source address (host_model: strong)
	Related      = "related"             // of no flow: goes as answers to its peer go, by the interface that has its source address (related: true)
	LocalOrigin  = "local-origin"        // goes as routed: the host spoke first
	Excluded     = "excluded"            // goes as routed: the configuration wants it so
	Fallback     = "fallback"            // goes as routed although its flow came another way; the reason tells why
)

// Reasons beside those of the metrics.
const (
	reasonNoRoute    = "no_route"    // the kernel builds no packet
	reasonNotManaged = "not_managed" // the kernel's choice is an interface without our programs
	reasonUnmanaged  = "unmanaged"   // the question would come in by such an interface
)

// Those of the metrics (loader/counters/names.go) that are put into words here.
const (
	reasonLinkDown    = "link_down"
	reasonObserve     = "observe"
	reasonBoundDevice = "bound_device"
	reasonNoNextHop   = "no_next_hop"
	reasonMTU         = "mtu"
)

// fallbackDetails put the reasons of Fallback into words.
var fallbackDetails = map[string]string{
	reasonNoRoute:     "the kernel has no route to the peer: it builds no reply",
	reasonNotManaged:  "replypath is not attached to the interface that the kernel chose: the reply goes as routed",
	reasonLinkDown:    "the flow's interface is down or gone: the reply goes as routed",
	reasonObserve:     "mode observe: the reply goes as routed, and is counted",
	reasonBoundDevice: "the socket is bound to a device: it is not moved off it",
	reasonNoNextHop:   "no gateway of the flow's interface is usable: the reply goes as routed",
	reasonMTU: "the packet is larger than the mtu of the flow's interface: its sender learns the size, and what it sends " +
		"meanwhile goes as routed",
}

// noFlowDetails put those of NoFlow into words.
var noFlowDetails = map[string]string{
	reasonUnmanaged: "replypath is not attached to the interface where it would arrive: nothing is recorded, it goes as the " +
		"kernel routes it",
	"not_own": "self is no address of this host and scope is local: nothing is recorded, it goes as the kernel routes it",
	"tunnel": "the interface where it would arrive is a tunnel that the configuration does not name, and does not have the self address: " +
		"nothing is recorded, it goes as the kernel routes it",
	"loopback": "only lo or a dummy device has the self address and loopback_addresses is kernel: it goes as the kernel routes it",
	"source":   "peer or self is this host, loopback, link-local, multicast or broadcast: nothing is recorded, it goes as the kernel routes it",
	"protocol": "the protocol is not listed: nothing is recorded, it goes as the kernel routes it",
}
