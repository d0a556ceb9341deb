// Package explain tells where a reply goes and why: the kernel's own choice, what
// the programs do with it, and by which entry. It reads the pins and asks the
// kernel over netlink, and needs no daemon.
package explain

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"replypath/bpf"
	"replypath/loader/flows"
)

// Question is what is asked about: the way of what this host sends from Self to
// Peer.
type Question struct {
	Peer, Self netip.AddrPort // port 0: any; of an echo the peer's port is its identifier
	Protocol   *uint8         // nil: any
	Interface  string         // where a question comes in that has made no flow yet; "": nowhere
	Size       int            // bytes of the IP packet; 0: one that fits
	Limit      int            // no more flows than so many are explained; 0: all
}

// Verdicts.
const (
	Corrected    = "corrected"     // leaves by the flow's interface and next hop, which the kernel did not choose
	AlreadyRight = "already-right" // the kernel chose them itself
	NoFlow       = "no-flow"       // goes as routed: nothing came in by this tuple
	LocalOrigin  = "local-origin"  // goes as routed: the host spoke first
	Excluded     = "excluded"      // goes as routed: the configuration wants it so
	Fallback     = "fallback"      // goes as routed although its flow came another way; the reason tells why
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

// Answer explains the reply that was asked about, or of several flows that match
// the one with the latest inbound frame.
type Answer struct {
	Explanation
	Others  []Explanation `json:"others"`  // the other flows, latest first
	Matches int           `json:"matches"` // how many flows match, of which there may be more than are explained
}

// Ask answers a question about the datapath that is pinned in the directory,
// which has to work for the network namespace of the calling thread. The error
// matches pins.ErrNone where nothing is pinned.
func Ask(pinDir string, q Question) (_ *Answer, err error) {
	h, err := OpenHost(pinDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	device, err := h.nameDevice(&q)
	if err != nil {
		return nil, err
	}
	entries, err := h.entries(&q)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		e, err := h.explainWithout(&q, device)
		return &Answer{Explanation: e, Others: []Explanation{}}, err
	}
	answer := &Answer{Others: []Explanation{}, Matches: len(entries)}
	if q.Limit > 0 && len(entries) > q.Limit {
		entries = entries[:q.Limit]
	}
	for i := range entries {
		e, err := h.explainFlow(&q, &entries[i])
		if err != nil {
			return nil, err
		}
		if i == 0 {
			answer.Explanation = e
		} else {
			answer.Others = append(answer.Others, e)
		}
	}
	return answer, nil
}

// entries returns the live flows that match, that of the latest inbound frame
// first. Of a tuple with several entries the one comes first that track_tcp() in
// bpf/src/egress.h prefers for all but a SYN-ACK.
func (h *Host) entries(q *Question) ([]flows.Entry, error) {
	found, err := h.lookup(q)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(e flows.Entry) bool { return e.Idle })
	established := make(map[bpf.DatapathTuple]bool)
	for i := range found {
		if found[i].State == flows.StateEstablished {
			established[found[i].Raw.Tuple] = true
		}
	}
	overruled := func(e *flows.Entry) int {
		if e.State == flows.StateHalfOpen && established[e.Raw.Tuple] {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(found, func(a, b flows.Entry) int {
		return cmp.Or(
			cmp.Compare(overruled(&a), overruled(&b)),
			cmp.Compare(a.IdleSeconds, b.IdleSeconds),
			cmp.Compare(a.AgeSeconds, b.AgeSeconds),
		)
	})
	return found, nil
}
