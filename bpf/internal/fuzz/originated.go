// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/bpf/internal/model"
)

// noteOriginated has the next run forget what this one may leave.
func (x *run) noteOriginated() {
	for t := range x.m.Originated {
		x.originatedDigests[x.d.Seeds.Digest(t)] = true
	}
}

// originated reads what the datapath keeps of a tuple that the host originates.
func (x *run) originated(t model.Tuple) (record bpf.DatapathOriginatedTuple, known bool, err error) {
	err = x.d.Originated.Lookup(x.d.Seeds.Digest(t), &record)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return record, false, nil
	}
	return record, err == nil, err
}

// compareOriginated compares what is kept of the tuples that the host originates.
func (x *run) compareOriginated(what *strings.Builder, late uint32) error {
	for t := range x.tuples {
		_, known, err := x.originated(t)
		if err != nil {
			return err
		}
		if _, ok := x.m.Originated[t]; known && !ok {
			fmt.Fprintf(what, "originated: not in the model: %s\n", tupleText(t))
		}
	}
	for t, kept := range x.m.Originated {
		got, known, err := x.originated(t)
		if err != nil {
			return err
		}
		want := bpf.DatapathOriginatedTuple{
			Tuple: t, Created: got.Created, Seen: got.Seen, Told: got.Told,
			From: kept.From, To: kept.To, State: kept.State, Outcome: kept.Outcome, Moved: kept.Moved,
			Decision: got.Decision, // the model decides about each packet
		}
		if !known || got != want || got.Created-kept.Created > late || got.Seen-kept.Seen > late || uint32(got.Told-kept.Told) > late {
			fmt.Fprintf(what, "originated: %s: %+v, found %v; in the model %+v\n", tupleText(t), got, known, kept)
		}
	}
	return nil
}

// ageOriginated makes what is kept of those tuples older.
func (x *run) ageOriginated(ticks uint32) error {
	for t := range x.m.Originated {
		record, known, err := x.originated(t)
		if err != nil {
			return err
		}
		if !known {
			continue
		}
		record.Created -= ticks
		record.Seen -= ticks
		if record.Told != 0 {
			record.Told -= uint16(ticks)
		}
		if err := x.d.Originated.Put(x.d.Seeds.Digest(t), record); err != nil {
			return err
		}
	}
	return nil
}

// forgetOriginated takes out what the run before has left.
func (x *run) forgetOriginated() error {
	for digest := range x.originatedDigests {
		if err := x.d.Originated.Delete(digest); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	clear(x.originatedDigests)
	return nil
}
