// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Table is one of the flow tables: a region of the maps that all of them share.
type Table struct {
	ID          bpf.DatapathTable
	region      bpf.Region
	flows, tags *ebpf.Map
}

// Tables returns the flow tables, by enum table.
func Tables(maps *bpf.DatapathMaps) []Table { return tablesOf(maps.Flows, maps.Tags) }

// Established returns the table of TCP connections.
func Established(maps *bpf.DatapathMaps) *Table {
	return &Tables(maps)[bpf.DatapathTableTABLE_ESTABLISHED]
}

func tablesOf(flows, tags *ebpf.Map) (tables []Table) {
	for table, region := range regions(flows.MaxEntries()) {
		tables = append(tables, Table{bpf.DatapathTable(table), region, flows, tags})
	}
	return tables
}

var tableNames = [bpf.DatapathTableTABLE_END]string{
	bpf.DatapathTableTABLE_HALF_OPEN:      "half_open",
	bpf.DatapathTableTABLE_ESTABLISHED:    "established",
	bpf.DatapathTableTABLE_CONNECTIONLESS: "connectionless",
}

// Name is that of the table, as the metrics have it.
func (t *Table) Name() string { return tableNames[t.ID] }

// Places returns how many flows the table has room for.
func (t *Table) Places() uint64 { return places(t.region.Sets) }

// Each calls visit for every entry, idle ones included, until it returns false. Entries that change meanwhile may be
// seen or not. Sets of which the tags tell that they are empty are not read.
func (t *Table) Each(visit func(digest uint64, flow *bpf.DatapathFlow) bool) (err error) {
	tags, sets := window[uint64]{array: t.tags}, window[bpf.DatapathFlowSet]{array: t.flows}
	defer func() { err = errors.Join(err, tags.close(), sets.close()) }()
	var set bpf.DatapathFlowSet
	for index := t.region.First; index < t.region.First+t.region.Sets; index++ {
		tag, err := tags.at(index)
		if err != nil {
			return fmt.Errorf("look at the tags of set %d: %w", index, err)
		}
		if *tag&^bpf.Overflowed == 0 {
			continue
		}
		present, err := sets.at(index)
		if err != nil {
			return fmt.Errorf("look at set %d: %w", index, err)
		}
		set = *present // which programs write to
		for way, digest := range set.Digest {
			if digest != 0 && !visit(digest, &set.Flow[way]) {
				return nil
			}
		}
	}
	return nil
}

// Find returns the flow with this digest, idle or not, nil for none: as find_digest() in bpf/src/table.h.
func (t *Table) Find(digest uint64) (*bpf.DatapathFlow, error) {
	first, second := bpf.Sets(digest, t.region.Sets)
	for _, index := range []uint32{first, second} {
		var set bpf.DatapathFlowSet
		if err := t.flows.Lookup(t.region.First+index, &set); err != nil {
			return nil, fmt.Errorf("read set %d: %w", index, err)
		}
		if way := slices.Index(set.Digest[:], digest); way >= 0 {
			return &set.Flow[way], nil
		}
	}
	return nil, nil
}

// put writes a set of the table, and its tags.
func (t *Table) put(index uint32, set *bpf.DatapathFlowSet, tags uint64) error {
	index += t.region.First
	if err := t.flows.Put(index, set); err != nil {
		return fmt.Errorf("write set %d: %w", index, err)
	}
	if err := t.tags.Put(index, tags); err != nil {
		return fmt.Errorf("write tags of set %d: %w", index, err)
	}
	return nil
}
