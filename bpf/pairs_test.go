// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/test/await"
)

// slotOf is the slot in which a CPU would count a pair: as find_slot() in src/count.h.
func (b *bed) slotOf(p bpf.DatapathPair, cpu int) uint32 {
	slots := int(b.PairSlots.MaxEntries()) / ebpf.MustPossibleCPU()
	number := *(*uint64)(unsafe.Pointer(&p)) * 0x9e3779b97f4a7c15
	return uint32(cpu*slots + int(number>>32*uint64(slots)>>32))
}

// slotMates returns pairs of which each would be counted in the slot of the others.
func (b *bed) slotMates(n network, m message, number int) (mates []bpf.DatapathPair) {
	for p := pair(b.production, b.replication, n, m, outcomeCorrected); len(mates) < number; p.From++ {
		if mates == nil || b.slotOf(p, 0) == b.slotOf(mates[0], 0) {
			mates = append(mates, p)
		}
	}
	return mates
}

// owner returns the pair that has a slot.
func (b *bed) owner(slot uint32) bpf.DatapathPair {
	b.t.Helper()
	var s bpf.DatapathPairSlot
	b.must(b.PairSlots.Lookup(slot, &s))
	return s.Pair
}

// TestPairSlots: of pairs that would be counted in one slot, the first has it, on each CPU another. Nothing is missing
// of any, nor what an earlier version counted.
func TestPairSlots(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		mates := b.slotMates(n, m, 2)
		frame := n.out(b.replication, m)
		counts := count{Packets: 1, Bytes: uint64(len(frame)), Flows: 1}
		b.must(b.Pairs.Put(mates[0], slices.Repeat([]bpf.DatapathPairCount{{Packets: 3}}, ebpf.MustPossibleCPU())))
		for cpu := range 2 {
			for i := range 4 {
				p := mates[(cpu+i)%2]
				plain := p
				plain.Outcome = 0
				b.must(b.ChangeScratch(func(s *bpf.DatapathScratch) {
					s.Handover = bpf.DatapathHandover{Ifindex: b.replication.Index, Ticket: 7, Packets: 1, First: true,
						Pair: *(*uint64)(unsafe.Pointer(&plain)), Table: uint8(bpf.DatapathTableTABLE_ORIGINATED)}
				}))
				r := arrive(b.replication, frame, 7)
				r.cpu = cpu
				b.run(r, effect{pairs: pairs{p: counts}})
			}
			await.Same(t, "pair of the slot", mates[cpu], b.owner(b.slotOf(mates[0], cpu)))
		}
	})
}
