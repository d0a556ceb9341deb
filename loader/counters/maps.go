// SPDX-License-Identifier: Apache-2.0

package counters

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

// Pairs are counters by interface pair.
type Pairs map[bpf.DatapathPair]bpf.DatapathPairCount

// ReadPairs adds up the counters of interface pairs of all CPUs.
func ReadPairs(maps *bpf.DatapathMaps) (Pairs, error) {
	sums := make(Pairs)
	var (
		pair   bpf.DatapathPair
		counts []bpf.DatapathPairCount
	)
	entries := maps.Pairs.Iterate()
	for entries.Next(&pair, &counts) {
		var sum bpf.DatapathPairCount // set, not added: an iteration that a deletion interrupts begins again
		for _, count := range counts {
			sum.Packets += count.Packets
			sum.Bytes += count.Bytes
			sum.Flows += count.Flows
		}
		sums[pair] = sum
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the counters of interface pairs: %w", err)
	}
	return sums, nil
}

// Forget deletes the counters of pairs with an interface whose id is about to become another's.
func Forget(maps *bpf.DatapathMaps, id uint16) error {
	pairs, err := ReadPairs(maps)
	errs := []error{err}
	for pair := range pairs {
		if Concerns(pair, id) {
			errs = append(errs, maps.Pairs.Delete(pair))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clear the counters of an interface: %w", err)
	}
	return nil
}

// Concerns tells whether a pair is one with an interface of this id.
func Concerns(pair bpf.DatapathPair, id uint16) bool { return pair.From == id || pair.To == id }
