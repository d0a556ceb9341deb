// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"cmp"
	"fmt"
	"strings"

	"replypath/bpf"
)

// Answered is what Remembered calls the packets that left as bpf/src/answered.h says.
const Answered = "answered"

// closed says what the datapath needs to know only: see bpf/src/answered.h.
const closed = uint8(bpf.DatapathOriginatedStateORIGINATED_CLOSED)

// noteOriginated has the next run forget what this one may leave.
func (x *run) noteOriginated() {
	for t := range x.m.Originated {
		x.originatedBefore[t] = true
	}
}

// compareOriginated compares what is kept of the tuples that the host originates.
func (x *run) compareOriginated(what *strings.Builder, late uint32) error {
	for t := range x.tuples {
		record, err := x.d.Record(t)
		if err != nil {
			return err
		}
		if _, ok := x.m.Originated[t]; record != nil && !ok {
			fmt.Fprintf(what, "originated: not in the model: %s\n", tupleText(t))
		}
	}
	for t, kept := range x.m.Originated {
		record, err := x.d.Record(t)
		if err != nil {
			return err
		}
		got := cmp.Or(record, new(bpf.DatapathOriginatedTuple))
		answered, err := x.d.Answered(t)
		if err != nil {
			return err
		}
		if answered != nil {
			x.Remembered[Answered] += int(answered.Corrected)
			got.Moved += answered.Corrected
			got.Seen = answered.RcvNxt
		}
		want := bpf.DatapathOriginatedTuple{
			Tuple: t, Created: got.Created, Seen: got.Seen, Told: got.Told,
			From: kept.From, To: kept.To, State: kept.State | got.State&closed, Outcome: kept.Outcome, Moved: kept.Moved,
			Decision: got.Decision, // the model decides about each packet
		}
		if record == nil || *got != want || got.Created-kept.Created > late || got.Seen-kept.Seen > late || uint32(got.Told-kept.Told) > late {
			fmt.Fprintf(what, "originated: %s: %+v, found %v; in the model %+v\n", tupleText(t), *got, record != nil, kept)
		}
	}
	return nil
}

// ageOriginated makes what is kept of those tuples older.
func (x *run) ageOriginated(ticks uint32) error {
	for t := range x.m.Originated {
		record, err := x.d.Record(t)
		if err != nil {
			return err
		}
		if record == nil {
			continue
		}
		record.Created -= ticks
		record.Seen -= ticks
		if record.Told != 0 {
			record.Told -= uint16(ticks)
		}
		if err := x.d.SetRecord(t, *record); err != nil {
			return err
		}
	}
	return nil
}

// forgetOriginated takes out what the run before has left.
func (x *run) forgetOriginated() error {
	for t := range x.originatedBefore {
		if err := x.d.DeleteRecord(t); err != nil {
			return err
		}
	}
	clear(x.originatedBefore)
	return nil
}
