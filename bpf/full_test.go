// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// fillMap puts entries into a map until there is room for no more.
func fillMap[K any](b *bed, m *ebpf.Map, value any, key func(number uint32) K) {
	b.t.Helper()
	for number := uint32(0); number <= m.MaxEntries(); {
		err := m.Put(key(number), value)
		switch {
		case errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC):
			return
		case errors.Is(err, unix.ENOMEM): // until the kernel has found more (kernel/bpf/memalloc.c)
			continue
		}
		b.must(err)
		number++
	}
	b.t.Fatalf("%s takes more than %d entries", m, m.MaxEntries())
}

// wantAsEver wants packets that start a flow to start it, and answers to known flows to be moved.
func (b *bed) wantAsEver(n network) {
	b.t.Helper()
	for _, m := range starters {
		b.put()
		b.arrives(n, m.message, b.starts(n, m.message, b.replication))
	}
	for _, m := range repliers {
		b.put(flowOf(m.message, b.flow(n, m.message, b.replication, 0)))
		b.wantMoved(n, m.message)
	}
	b.put()
}

// fillMarks has every place of the table be a mark, and no test look at marks.
func (b *bed) fillMarks() {
	b.t.Helper()
	marks := make(map[uint64]bool)
	for bucket := range uint64(b.Buckets.MaxEntries()) {
		for i := range uint64(bpf.DatapathPlacePLACES) {
			marks[1<<60|i<<24|bucket<<1|1] = true
		}
	}
	b.put(func(t tables) { t.Marks = marks })
	b.marksVary = true
	b.t.Cleanup(func() { b.marksVary = false })
}

// TestAskedFlood: as many peers as there is room for have asked. A newcomer's question takes the place of one of them.
func TestAskedFlood(t *testing.T) {
	eachRepair(t, repairOn, func(t *testing.T, b *bed, n network) {
		b.fillHash(b.DatapathMaps.Leads, bpf.DatapathLead{Digest: 1})
		next := newcomer(n)
		b.arrives(next, udp{}, b.admitsServed(next, b.replication))
		if !slices.Contains(b.askedBy(), b.Seeds.Digest(next.tuple(udp{}))) {
			t.Error("the newcomer's question found no room")
		}
		frame := next.out(b.production, udp{})
		known, _ := b.snapshot()
		flow := known.Connectionless[next.tuple(udp{})]
		flow.State = stateReplied | stateAsymmetric
		moved := b.moves(next, udp{}, b.production, b.replication, frame)
		moved.tables = connectionlessFlow(flow)
		b.run(egress(b.production, frame), moved)
	})
}

// fillHash puts as many entries into a hash as it has room for, by digests that no test has otherwise.
func (b *bed) fillHash(m *ebpf.Map, value any) {
	b.t.Helper()
	for number := range uint64(m.MaxEntries()) {
		b.must(m.Put(number<<1|1, value))
	}
}

// TestFullPairs: there are as many other pairs as can be, in slots as well. Packets are moved all the same, and that they
// are missing is counted.
func TestFullPairs(t *testing.T) {
	b := newBed(t, normal)
	cpus := ebpf.MustPossibleCPU()
	other := func(number uint32) bpf.DatapathPair {
		return bpf.DatapathPair{From: uint16(number), To: 4000, Family: 4}
	}
	fillMap(b, b.Pairs, make([]bpf.DatapathPairCount, cpus), other)
	for slot := range b.PairSlots.MaxEntries() {
		b.must(b.PairSlots.Put(slot, bpf.DatapathPairSlot{Pair: other(slot)}))
	}
	for _, n := range networks {
		for _, m := range repliers {
			b.put(flowOf(m.message, b.flow(n, m.message, b.replication, 0)))
			frame := n.out(b.production, m.message)
			want := b.moves(n, m.message, b.production, b.replication, frame)
			maps.DeleteFunc(want.pairs, func(bpf.DatapathPair, count) bool { return true })
			b.must(b.ForgetScratch()) // it would be counted as lost
			want.events = once(bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER)
			b.run(egress(b.production, frame), want)
		}
	}
}

var fullFamily = map[string]story{
	"packets of which more fragments are to come fill the map": func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.fillHash(b.DatapathMaps.Leads, bpf.DatapathLead{Seen: b.ago(0)})
		frames := n.inPieces(b.production, 1)
		b.run(egress(b.production, frames.later), unread(eventUnparsedFragment))
		b.run(egress(b.production, frames.first), b.moves(n, udp{}, b.production, b.replication, frames.first))
		want := b.moves(n, udp{}, b.production, b.replication, frames.later).again()
		b.run(egress(b.production, frames.later), want)
	},
	// Marks make room for all else, and for other marks.
	"marks take every place": func(t *testing.T, b *bed, n network) {
		for _, m := range starters {
			b.fillMarks()
			b.arrives(n, m.message, b.starts(n, m.message, b.replication))
		}
		b.fillMarks()
		segment := ingress(b.replication, n.in(b.replication, tcp{flags: "A"}))
		b.compare(segment, b.meetsStranger(n, b.replication), b.perform(segment, segment)) // the second changes nothing
		b.leaves(n, udp{}, b.notes(n, udp{}))
		own := n.at(n.stranger)
		b.leaves(own, udp{}, nothing)
		if known, _ := b.snapshot(); !known.Marks[b.Cut(b.Seeds.Digest(own.tuple(udp{})))] {
			t.Error("what the host sends from an address that is none of ours found no room")
		}
	},
	// None is about the packet. Nor is one of a set that is not in force.
	"more rules of exclusion are said to be there than can be": func(t *testing.T, b *bed, n network) {
		set := bpf.DatapathExclusionSet{Count: 1000}
		for i := range set.Rule {
			set.Rule[i].Protocol = 200
		}
		b.configure(func(s *bpf.DatapathSettings) { s.Exclusions[0] = set })
		b.wantAsEver(n)
		b.exclude(bpf.DatapathExclusion{})
		b.configure(func(s *bpf.DatapathSettings) { s.InForce = 1 })
		b.wantAsEver(n)
	},
}

func TestFullFamily(t *testing.T) { tell(t, eachFamily, fullFamily) }
