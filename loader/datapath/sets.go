// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// The tables have half as many ways again as they are meant to hold flows: with
// two sets to choose from, there is then a free way for all but one new flow in
// ten thousand, even in a full table (TestCapacity).
func setsFor(flows uint32) uint32 {
	ways := uint64(flows) * 3 / 2
	return max(1, uint32(ways/uint64(bpf.DatapathWaysWAYS)))
}

// Places returns how many flows a table has room for.
func Places(table *ebpf.Map) uint64 { return uint64(table.MaxEntries()) * uint64(bpf.DatapathWaysWAYS) }

// Capacity returns how many flows a table is meant for.
func Capacity(table *ebpf.Map) int { return capacity(table.MaxEntries()) }

func capacity(sets uint32) int {
	ways := uint64(sets) * uint64(bpf.DatapathWaysWAYS)
	return int(ways * 2 / 3)
}

// tableSets returns the number of sets of every flow table for the configured
// number of flows of the largest one. The others are fixed fractions of it.
func tableSets(largest uint32) [bpf.DatapathTableTABLE_END]uint32 {
	return [...]uint32{
		bpf.DatapathTableTABLE_HALF_OPEN:      setsFor(largest / 4),
		bpf.DatapathTableTABLE_ESTABLISHED:    setsFor(largest),
		bpf.DatapathTableTABLE_CONNECTIONLESS: setsFor(largest / 2),
	}
}

// askedSets returns the number of sets of the table of who asked last: for one
// in eight of the flows without a connection. Each entry is needed for as long as
// an answer takes, and those of conversations go last.
func askedSets(largest uint32) uint32 { return setsFor(largest / 16) }

// notesFor returns how many tuples it is remembered of that the host spoke first by them. The kernel keeps some free on
// each CPU (kernel/bpf/bpf_lru_list.c).
func notesFor(largest uint32) uint32 { return max(largest/4, minNotes) }

const minNotes = 4096

var tableNames = [bpf.DatapathTableTABLE_END]string{
	bpf.DatapathTableTABLE_HALF_OPEN:      bpf.DatapathMapHalfOpen,
	bpf.DatapathTableTABLE_ESTABLISHED:    bpf.DatapathMapEstablished,
	bpf.DatapathTableTABLE_CONNECTIONLESS: bpf.DatapathMapConnectionless,
}

// TableName returns the name of a table, as the metrics have it.
func TableName(table bpf.DatapathTable) string { return tableNames[table] }

// isFlowTable tells of the tables that are sized after the configured number of
// flows.
func isFlowTable(name string) bool { return slices.Contains(tableNames[:], name) }

// isTags tells of the maps that hold the tags of a flow table.
func isTags(name string) bool {
	return slices.ContainsFunc(tableNames[:], func(table string) bool { return name == bpf.TagsMap(table) })
}

// capacityFor returns that of one of them for the configured number of flows of the
// largest one.
func capacityFor(name string, largest uint32) int {
	return capacity(tableSets(largest)[slices.Index(tableNames[:], name)])
}

// batch is how many sets are read by one system call: 200 KiB.
const batch = 256

// eachSet calls visit for every set of a table until it returns false.
func eachSet[Set any](table *ebpf.Map, visit func(*Set) bool) error {
	var (
		cursor  ebpf.MapBatchCursor
		indices = make([]uint32, batch)
		sets    = make([]Set, batch)
	)
	for {
		count, err := table.BatchLookup(&cursor, indices, sets, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return fmt.Errorf("read flow table: %w", err)
		}
		for i := range count {
			if !visit(&sets[i]) {
				return nil
			}
		}
		if last {
			return nil
		}
	}
}

func readSet[Set any](table *ebpf.Map, index uint32) (set Set, err error) {
	if err := table.Lookup(index, &set); err != nil {
		return set, fmt.Errorf("read set %d: %w", index, err)
	}
	return set, nil
}

// EachFlow calls visit for every entry of a flow table, idle ones included, until it returns false. Entries that change
// meanwhile may be seen or not. With the tags of the table, other than nil, the sets that are empty are not read.
func EachFlow(table, tags *ebpf.Map, visit func(digest uint64, flow *bpf.DatapathFlow) bool) error {
	visitSet := func(set *bpf.DatapathFlowSet) bool {
		for way, digest := range set.Digest {
			if digest != 0 && !visit(digest, &set.Flow[way]) {
				return false
			}
		}
		return true
	}
	if tags == nil {
		return eachSet(table, visitSet)
	}
	used, err := usedSets(tags)
	if err != nil {
		return err
	}
	if len(used) > int(tags.MaxEntries()/4) { // a call for each of them would take longer
		return eachSet(table, visitSet)
	}
	for _, index := range used {
		set, err := readSet[bpf.DatapathFlowSet](table, index)
		if err != nil || !visitSet(&set) {
			return err
		}
	}
	return nil
}

// usedSets returns the indices of the sets that something is in, as the tags of the table tell.
func usedSets(tags *ebpf.Map) (used []uint32, err error) {
	memory, err := unix.Mmap(tags.FD(), 0, int(tags.MaxEntries()*tags.ValueSize()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("look at the tags of a flow table: %w", err)
	}
	for index := range tags.MaxEntries() {
		if binary.NativeEndian.Uint64(memory[index*tags.ValueSize():])&^bpf.Overflowed != 0 {
			used = append(used, index)
		}
	}
	return used, unix.Munmap(memory)
}
