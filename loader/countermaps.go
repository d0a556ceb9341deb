package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
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

// readPairs adds up the counters of interface pairs of all CPUs, of which each
// has slots of its own, with those that found their slot taken.
func readPairs(maps *bpf.DatapathMaps) (map[bpf.DatapathPair]bpf.DatapathPairCount, error) {
	sums := make(map[bpf.DatapathPair]bpf.DatapathPairCount)
	add := func(pair bpf.DatapathPair, count bpf.DatapathPairCount) {
		sum := sums[pair]
		sum.Packets += count.Packets
		sum.Bytes += count.Bytes
		sum.Flows += count.Flows
		sums[pair] = sum
	}
	err := eachSlot(maps.PairSlots, func(_ uint32, counts []bpf.DatapathPairCount) error {
		for _, count := range counts {
			if isTaken(count) {
				add(count.Pair, count)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var (
		pair   bpf.DatapathPair
		counts []bpf.DatapathPairCount
	)
	entries := maps.Pairs.Iterate()
	for entries.Next(&pair, &counts) {
		for _, count := range counts {
			add(pair, count)
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the counters of interface pairs: %w", err)
	}
	return sums, nil
}

// isTaken tells whether a pair owns the slot on this CPU. The flow's interface
// always has an id.
func isTaken(count bpf.DatapathPairCount) bool { return count.Pair.To != 0 }

func eachSlot(table *ebpf.Map, visit func(slot uint32, counts []bpf.DatapathPairCount) error) error {
	var counts []bpf.DatapathPairCount
	for slot := range table.MaxEntries() {
		if err := table.Lookup(slot, &counts); err != nil {
			return fmt.Errorf("read the counters of interface pairs: %w", err)
		}
		if err := visit(slot, counts); err != nil {
			return err
		}
	}
	return nil
}

// forgetCounters clears the counters of pairs with an interface whose id is about
// to become another's. The kernel takes the values of all CPUs at once: what one with
// another pair in the slot counts between the reading and the writing is lost.
func forgetCounters(maps *bpf.DatapathMaps, id uint16) error {
	err := eachSlot(maps.PairSlots, func(slot uint32, counts []bpf.DatapathPairCount) error {
		changed := false
		for cpu := range counts {
			if isTaken(counts[cpu]) && concerns(counts[cpu].Pair, id) {
				counts[cpu] = bpf.DatapathPairCount{}
				changed = true
			}
		}
		if !changed {
			return nil
		}
		return maps.PairSlots.Put(slot, counts)
	})
	var (
		pair   bpf.DatapathPair
		counts []bpf.DatapathPairCount
		found  []bpf.DatapathPair
	)
	entries := maps.Pairs.Iterate()
	for entries.Next(&pair, &counts) {
		if concerns(pair, id) {
			found = append(found, pair)
		}
	}
	errs := []error{err, entries.Err()}
	for _, pair := range found {
		errs = append(errs, maps.Pairs.Delete(pair))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clear the counters of an interface: %w", err)
	}
	return nil
}

func concerns(pair bpf.DatapathPair, id uint16) bool { return pair.From == id || pair.To == id }
