// SPDX-License-Identifier: Apache-2.0

// Package explain tells where a reply goes and why: the kernel's own choice, what
// the programs do with it, and by which entry. It reads the pins and asks the
// kernel over netlink, and needs no daemon.
package explain

import (
	"cmp"
	"errors"
	"slices"

	"replypath/bpf"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

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
	device, err := h.kernel.nameDevice(&q)
	if err != nil {
		return nil, err
	}
	entries, err := h.entries(&q)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		e, err := h.explainWithout(&q, device)
		if err != nil {
			return nil, err
		}
		return &Answer{Explanation: e, Others: []Explanation{}}, e.addUnseen(pinDir, q.Interface)
	}
	answer := &Answer{Others: []Explanation{}, Matches: len(entries)}
	if q.Limit > 0 && len(entries) > q.Limit {
		entries = entries[:q.Limit]
	}
	for i := range entries {
		e, err := h.explainFlow(&q, &entries[i])
		if err == nil && !e.Flow.Asymmetric {
			err = e.addUnseen(pinDir, finding.OrEmpty(e.Flow.Interface))
		}
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

// addUnseen says where questions may have been dropped before there was a reply: by an interface, or by any of those whose
// requests are recorded if it is "".
func (e *Explanation) addUnseen(pinDir, arrivesBy string) error {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil || e.Family != "ipv4" || e.Verdict == AlreadyRight { // IPv6 has no rp_filter
		return err
	}
	by := slices.DeleteFunc(journal.Recording(), func(name string) bool { return arrivesBy != "" && arrivesBy != name })
	if unseen := hostsettings.Unseen(by); unseen != "" {
		e.Detail += "; " + unseen
	}
	return nil
}

// entries returns the live flows that match, that of the latest inbound frame
// first. Of a tuple with several entries the one comes first that track_tcp() in
// bpf/src/egress.h prefers for all but a SYN-ACK.
func (h *Host) entries(q *Question) ([]flows.Entry, error) {
	found, err := h.table.Entries(q.matches)
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
