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

// fillMarks has every place of the marks be taken, and returns the digest that makes room for another one's.
func (b *bed) fillMarks() (before func(digest uint64) uint64) {
	b.t.Helper()
	b.keepPeriod()
	present, err := b.Mark(0)
	b.must(err)
	of := func(index uint64) uint64 { return 1<<60 | index<<1 | 1 }
	for index := range b.MarkView.Elements {
		b.MarkView.Elements[index] = of(uint64(index)) ^ present
	}
	b.must(b.MarkView.Write())
	return func(digest uint64) uint64 { return of(digest >> 1 % uint64(len(b.MarkView.Elements))) }
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

// TestFullPairs: there are as many other pairs as can be. Packets are moved all the same, and that they
// are missing is counted.
func TestFullPairs(t *testing.T) {
	b := newBed(t, normal)
	cpus := ebpf.MustPossibleCPU()
	other := func(number uint32) bpf.DatapathPair {
		return bpf.DatapathPair{From: uint16(number), To: 4000, Family: 4}
	}
	fillMap(b, b.Pairs, make([]bpf.DatapathPairCount, cpus), other)
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
	// What needs no mark is as ever.
	"of a tuple that is marked, another one takes the place": func(t *testing.T, b *bed, n network) {
		b.fillMarks()
		for _, m := range starters {
			b.arrives(n, m.message, b.starts(n, m.message, b.replication))
		}
		b.put() // which forgets all marks
		before := b.fillMarks()
		want := b.meetsStranger(n, b.replication).and(func(t tables) {
			delete(t.Marks, before(b.Seeds.Digest(n.tuple(tcp{}))))
		})
		segment := ingress(b.replication, n.in(b.replication, tcp{flags: "A"}))
		b.compare(segment, want, b.perform(segment, segment)) // the second changes nothing
		b.leaves(n, udp{}, b.notes(n, udp{}))
	},
	"what the host sends from an address that is none of ours takes the place of something else": func(t *testing.T, b *bed, n network) {
		before := b.fillMarks()
		b.wantAsEver(n)
		b.leaves(n, udp{}, b.notes(n, udp{}))
		own := n.at(n.stranger)
		b.leaves(own, udp{}, effect{tables: func(t tables) {
			digest := b.Seeds.Digest(own.tuple(udp{}))
			t.Marks[digest] = true
			delete(t.Marks, before(digest))
		}})
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
