// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"maps"

	"replypath/bpf"
	"replypath/bpf/internal/model"
)

// witness lets the model look at what the datapath did.
func (x *run) witness(events map[bpf.DatapathEvent]uint64) model.Witness {
	return model.Witness{
		Rose: func(e model.Event) bool { return events[e]-x.events[e] > x.m.Events[e] },
		Counted: func(p model.Pair) bool {
			pairs, err := x.readPairs()
			return err == nil && pairs[p].Packets-x.pairs[p].Packets > x.m.Pairs[p].Packets
		},
		Marked: func(t model.Tuple) bool {
			marked, err := x.marked(t)
			return err == nil && marked
		},
		Noted: func(t model.Tuple) bool {
			if err := x.sets.Read(); err != nil {
				return false
			}
			_, ok := x.noted(t)
			return ok
		},
	}
}

func (x *run) marked(t model.Tuple) (bool, error) {
	digest := x.d.Seeds.Digest(t)
	return x.d.Marked(digest, x.period^digest)
}

// settleMarks: of two tuples with one place, the last is remembered.
func (x *run) settleMarks() {
	for t := range x.m.Marks {
		x.tuples[t] = true
		if marked, err := x.marked(t); err == nil && !marked && x.placeTaken(t) {
			delete(x.m.Marks, t)
		}
	}
}

func (x *run) placeTaken(t model.Tuple) bool {
	place := func(t model.Tuple) uint64 {
		return x.d.Seeds.Digest(t) >> 1 % uint64(x.d.DatapathMaps.Marks.MaxEntries())
	}
	for other := range maps.Keys(x.m.Marks) {
		if other != t && place(other) == place(t) {
			return true
		}
	}
	return false
}

func (x *run) readPairs() (map[model.Pair]model.Count, error) {
	counts, err := x.d.Counts()
	if err != nil {
		return nil, err
	}
	pairs := make(map[model.Pair]model.Count)
	for p, c := range counts.Pairs {
		pairs[p] = model.Count{Packets: c.Packets, Bytes: c.Bytes, Flows: c.Flows}
	}
	return pairs, nil
}
