// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/model"
)

// differ notes a difference.
func (x *run) differ(format string, values ...any) { fmt.Fprintf(&x.what, format+"\n", values...) }

// compareEvents holds the events since the beginning against the model's.
func (x *run) compareEvents(events map[bpf.DatapathEvent]uint64) {
	for e := range bpf.DatapathEventEVENT_END {
		if got, want := events[e]-x.events[e], x.m.Events[e]; got != want {
			x.differ("event %d counted %d times, in the model %d", e, got, want)
		}
	}
}

// compareAll compares what is remembered, and counters. The times of the datapath's may be later, by as much as
// the run has taken.
func (x *run) compareAll() error {
	tables, err := x.d.Tables()
	if err != nil {
		return err
	}
	now, err := x.d.Now()
	if err != nil {
		return err
	}
	x.late = now - x.start
	x.compareFlows("half-open", tables.HalfOpen, x.m.HalfOpen, x.m.IsHalfOpen)
	x.compareFlows("established", tables.Established, x.m.Established, x.m.IsEstablished)
	x.compareFlows("connectionless", tables.Connectionless, x.m.Connectionless, x.m.IsConnectionless)
	if err := errors.Join(x.compareNotes(), x.compareOriginated(), x.compareRecent(), x.compareLeads(), x.compareWays()); err != nil {
		return err
	}
	x.compareMarks(tables.Marks)
	return x.compareCounters()
}

func (x *run) compareFlows(name string, flows, wanted map[model.Tuple]model.Flow, live func(model.Flow) bool) {
	for t, f := range flows {
		if want, ok := wanted[t]; !ok && live(f) {
			x.differ("%s: not in the model: %+v", name, f)
		} else if ok && (live(f) || live(want)) && !x.same(f, want, name == "half-open") {
			x.differ("%s: %+v, in the model\n\t%+v", name, f, want)
		}
	}
	for t, want := range wanted {
		if _, ok := flows[t]; !ok && live(want) {
			x.differ("%s: not in the datapath: %+v", name, want)
		}
	}
}

func (x *run) same(got, want model.Flow, halfOpen bool) bool {
	if got.Seen-want.Seen > x.late || got.Created-want.Created > x.late || uint32(got.SizeTold-want.SizeTold) > x.late ||
		uint32(got.Sent-want.Sent) > x.late {
		return false
	}
	got.Seen, got.Created, got.SizeTold, got.Sent = want.Seen, want.Created, want.SizeTold, want.Sent
	if want.Tuple.Protocol != unix.IPPROTO_TCP {
		return x.sameDatagrams(got, want)
	}
	// Sequence numbers mean nothing in other entries than these.
	if !halfOpen && want.Flags&uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET|bpf.DatapathFlowFlagsFLOW_ON_TRIAL) == 0 {
		got.SndUna, got.SndNxt, got.RcvNxt = want.SndUna, want.SndNxt, want.RcvNxt
	}
	return got == want
}

// sameDatagrams goes on with what has no connection, and keeps there who spoke last and a rival: see types.h. A rival that
// was there before the flow's own way was heard is none.
func (x *run) sameDatagrams(got, want model.Flow) bool {
	answered := want.State&uint8(bpf.DatapathFlowStateFLOW_REPLIED) != 0
	rivals := want.SndNxt != 0 && want.Flags&uint16(bpf.DatapathFlowFlagsFLOW_ACTIVE) == 0
	if answered && got.SndUna-want.SndUna > x.late || rivals && (got.SndNxt == 0 || got.RcvNxt-want.RcvNxt > x.late) {
		return false
	}
	got.SndUna, got.SndNxt, got.RcvNxt = want.SndUna, want.SndNxt, want.RcvNxt
	if !rivals {
		got.RivalFrames = want.RivalFrames
	}
	return got == want
}

// compareNotes compares what is known of who spoke first.
func (x *run) compareNotes() error {
	found, err := x.d.Notes()
	if err != nil {
		return err
	}
	notes := make(map[uint64]model.Tuple)
	for t, want := range x.m.Outbound {
		digest := x.d.Seeds.Digest(t)
		if t.Protocol == 0 {
			digest = x.d.Seeds.LeadKey(t, bpf.DatapathLeadKindLEAD_ASKER)
		}
		notes[digest] = t
		got, ok := found[digest]
		same := ok && got.Sent-want.Sent <= x.late && got.Heard-want.Heard <= x.late
		if x.m.IsNoted(want) && !same {
			x.differ("outbound: %s %+v, found %v; in the model %+v", tupleText(t), got, ok, want)
		}
	}
	for digest, note := range found {
		if _, ok := notes[digest]; !ok && x.m.IsNoted(model.Note{Sent: note.Sent, Heard: note.Heard}) {
			x.differ("outbound: digest %#x, %+v is not in the model", digest, note)
		}
	}
	return nil
}

// compareWays compares what was learnt from handshakes. How often links went down is known to the kernel alone.
func (x *run) compareWays() error {
	found, err := x.d.LearntWays()
	for sender, want := range x.m.Ways {
		got, known := found[sender]
		isLate := got.Since-want.Since > x.late || got.Heard-want.Heard > x.late || got.Tried-want.Tried > x.late
		want.Since, want.Heard, want.Tried, want.Downs = got.Since, got.Heard, got.Tried, got.Downs
		if !known || isLate || got != want {
			x.differ("ways: %+v: %+v, found %v; in the model %+v", sender, got, known, want)
		}
		delete(found, sender)
	}
	for sender, got := range found {
		x.differ("ways: not in the model: %+v: %+v", sender, got)
	}
	begun, failed := x.d.BegunWays()
	for sender, want := range x.m.Begun {
		if got := begun[sender]; got.Sent-want.Sent > x.late || got.Way != want.Way {
			x.differ("begun: %+v: %+v; in the model %+v", sender, got, want)
		}
	}
	return errors.Join(err, failed)
}

// compareOriginated compares what is kept of own addresses and peers.
func (x *run) compareOriginated() error {
	for t := range x.tuples {
		record, err := x.d.Record(t)
		if err != nil {
			return err
		}
		kept, known := x.m.Originated[model.EndsOf(t)]
		if record == nil {
			if known {
				x.differ("originated: not in the datapath: %s", tupleText(t))
			}
			continue
		}
		got, want := *record, kept.DatapathRecord
		isLate := got.Created-want.Created > x.late || got.Seen-want.Seen > x.late || got.Heard-want.Heard > x.late ||
			uint32(got.SizeTold-want.SizeTold) > x.late
		want.Created, want.Seen, want.Heard, want.SizeTold = got.Created, got.Seen, got.Heard, got.SizeTold
		want.PeerPort, want.SelfPort, want.Protocol = got.PeerPort, got.SelfPort, got.Protocol // of the last packet, to a tick
		want.Generation, want.Hop = got.Generation, got.Hop                                    // the model decides about each packet
		want.Flow, want.Peer, want.Self = x.digestOf(kept.With), t.Peer, t.Self
		if !known || isLate || got != want {
			x.differ("originated: %s: %+v; in the model, found %v, %+v", tupleText(t), got, known, want)
		}
	}
	return nil
}

// compareRecent compares what began last by addresses.
func (x *run) compareRecent() error {
	err := x.d.Begun.Read()
	for key, t := range x.m.Recent {
		place := uint64(key.Place)
		if key.IsQuestion {
			place += uint64(len(x.d.Begun.Elements) / 2)
		}
		if got := x.d.Begun.Elements[place]; got != x.d.Seeds.Digest(t) {
			x.differ("recent: %+v: %#x; in the model %s", key, got, tupleText(t))
		}
	}
	return err
}

// digestOf is that of a tuple, 0 for none.
func (x *run) digestOf(t model.Tuple) uint64 {
	if t == (model.Tuple{}) {
		return 0
	}
	return x.d.Seeds.Digest(t)
}

// compareLeads compares by which flow each peer asked last, and what was decided about first fragments.
func (x *run) compareLeads() error {
	got, err := x.d.Leads()
	if err != nil {
		return err
	}
	for key, lead := range x.m.Leads {
		digest := x.leadKey(key)
		f, ok := got[digest]
		want := bpf.DatapathLead{Digest: x.d.Seeds.Digest(lead.Tuple), Seen: f.Seen,
			Table: uint8(lead.Table), Outcome: uint8(lead.Outcome), Protocol: lead.Protocol}
		if lead.Table >= bpf.DatapathTableTABLE_ORIGINATED { // of no flow
			want.Digest = f.Digest
		}
		if !ok || f != want || f.Seen-lead.Seen > x.late {
			x.differ("leads: %+v: %+v, found %v; in the model %+v", key, f, ok, lead)
		}
		delete(got, digest)
	}
	for digest, f := range got {
		x.differ("leads: %#x is not in the model: %+v", digest, f)
	}
	return nil
}

// leadKey is what the datapath knows these parts of a tuple by.
func (x *run) leadKey(key model.LeadKey) uint64 {
	if key.Kind == bpf.DatapathLeadKindLEAD_WATCHED {
		return uint64(key.Kind)
	}
	return x.d.Seeds.LeadKey(key.Parts, key.Kind)
}

// compareMarks compares the tuples by which nothing begins.
func (x *run) compareMarks(got map[uint64]bool) {
	want := make(map[uint64]string)
	for t := range x.m.Refused {
		want[x.d.Cut(x.d.Seeds.Digest(t))] = tupleText(t)
	}
	for digest := range got {
		if want[digest] == "" {
			x.differ("marks: %#x is not in the model", digest)
		}
	}
	for digest, name := range want {
		if !got[digest] {
			x.differ("marks: not in the datapath: %s", name)
		}
	}
}

func (x *run) compareCounters() error {
	pairs, err := x.readPairs()
	if err != nil {
		return err
	}
	x.lastPairs = pairs
	since := make(map[model.Pair]model.Count)
	for p := range x.m.Pairs {
		since[p] = model.Count{}
	}
	for p, now := range pairs {
		before := x.pairs[p]
		since[p] = model.Count{Packets: now.Packets - before.Packets, Bytes: now.Bytes - before.Bytes, Flows: now.Flows - before.Flows}
	}
	for p, got := range since {
		if want := x.m.Pairs[p]; got != want {
			x.differ("pair %+v: %+v, in the model %+v", p, got, want)
		}
	}
	return nil
}

func (x *run) readPairs() (map[model.Pair]model.Count, error) {
	counts, err := x.d.Counts()
	pairs := make(map[model.Pair]model.Count)
	for p, c := range counts.Pairs {
		pairs[p] = model.Count{Packets: c.Packets, Bytes: c.Bytes, Flows: c.Flows}
	}
	return pairs, err
}

func tupleText(t model.Tuple) string {
	return fmt.Sprintf("%d %x:%#x-%x:%#x", t.Protocol, t.Peer, t.PeerPort, t.Self, t.SelfPort)
}
