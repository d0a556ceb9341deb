// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/pins"
)

// readEvents adds up the counters of all CPUs, by event.
func readEvents(table *ebpf.Map) ([]uint64, error) {
	sums := make([]uint64, table.MaxEntries())
	var counts []uint64
	for event := range sums {
		if err := table.Lookup(uint32(event), &counts); err != nil {
			return nil, fmt.Errorf("read counter %d: %w", event, err)
		}
		for _, count := range counts {
			sums[event] += count
		}
	}
	return sums, nil
}

// Pairs are counters by interface pair.
type Pairs map[bpf.DatapathPair]bpf.DatapathPairCount

func (c Pairs) add(pair bpf.DatapathPair, count bpf.DatapathPairCount) {
	sum := c[pair]
	sum.Packets += count.Packets
	sum.Bytes += count.Bytes
	sum.Flows += count.Flows
	c[pair] = sum
}

// ReadPairs adds up the counters of interface pairs of all CPUs, of which each
// has slots of its own, with those that found their slot taken. What was counted
// for interfaces whose ids are others' by now is taken off.
func ReadPairs(maps *bpf.DatapathMaps, forgotten []pins.PairRecord) (Pairs, error) {
	sums, err := readSlots(maps)
	if err != nil {
		return nil, err
	}
	for _, r := range forgotten {
		sums.forget(r)
	}
	var (
		pair   bpf.DatapathPair
		counts []bpf.DatapathPairCount
	)
	entries := maps.Pairs.Iterate()
	for entries.Next(&pair, &counts) {
		for _, count := range counts {
			sums.add(pair, count)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the counters of interface pairs: %w", err)
	}
	return sums, nil
}

// readSlots adds up the counters in the slots.
func readSlots(maps *bpf.DatapathMaps) (Pairs, error) {
	sums := make(Pairs)
	var counts []bpf.DatapathPairCount
	for slot := range maps.PairSlots.MaxEntries() {
		if err := maps.PairSlots.Lookup(slot, &counts); err != nil {
			return nil, fmt.Errorf("read the counters of interface pairs: %w", err)
		}
		for _, count := range counts {
			if isTaken(count) {
				sums.add(count.Pair, count)
			}
		}
	}
	return sums, nil
}

// forget takes off what was counted before; a pair that has counted nothing since
// is none.
func (c Pairs) forget(r pins.PairRecord) {
	pair := pairOf(r)
	sum := c[pair]
	sum.Packets -= r.Packets
	sum.Bytes -= r.Bytes
	sum.Flows -= r.Flows
	c[pair] = sum
	if sum.Packets == 0 {
		delete(c, pair)
	}
}

func pairOf(r pins.PairRecord) bpf.DatapathPair {
	return bpf.DatapathPair{From: r.From, To: r.To, Family: r.Family, Protocol: r.Protocol, Outcome: r.Outcome}
}

// isTaken tells whether a pair owns the slot on this CPU. The flow's interface
// always has an id.
func isTaken(count bpf.DatapathPairCount) bool { return count.Pair.To != 0 }

// Forget notes what was counted for pairs with an interface whose id is
// about to become another's. The slots stay as they are: the kernel takes their
// values of all CPUs at once, and what one counted between the reading and the
// writing, for any pair, would be lost.
func Forget(maps *bpf.DatapathMaps, id uint16, before []pins.PairRecord) ([]pins.PairRecord, error) {
	slots, err := readSlots(maps)
	if err != nil {
		return before, err
	}
	forgotten := slices.DeleteFunc(slices.Clone(before), func(r pins.PairRecord) bool { return Concerns(pairOf(r), id) })
	for pair, sum := range slots {
		if Concerns(pair, id) {
			forgotten = append(forgotten, pins.PairRecord{
				From: pair.From, To: pair.To, Family: pair.Family, Protocol: pair.Protocol, Outcome: pair.Outcome,
				Packets: sum.Packets, Bytes: sum.Bytes, Flows: sum.Flows,
			})
		}
	}
	return forgotten, deletePairs(maps.Pairs, id)
}

// deletePairs deletes the counters of pairs that found their slot taken.
func deletePairs(table *ebpf.Map, id uint16) error {
	var (
		pair   bpf.DatapathPair
		counts []bpf.DatapathPairCount
		found  []bpf.DatapathPair
	)
	entries := table.Iterate()
	for entries.Next(&pair, &counts) {
		if Concerns(pair, id) {
			found = append(found, pair)
		}
	}
	errs := []error{entries.Err()}
	for _, pair := range found {
		errs = append(errs, table.Delete(pair))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clear the counters of an interface: %w", err)
	}
	return nil
}

// Concerns tells whether a pair is one with an interface of this id.
func Concerns(pair bpf.DatapathPair, id uint16) bool { return pair.From == id || pair.To == id }
