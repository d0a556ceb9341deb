// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Table is one of the flow tables: a region of the maps that all of them share.
type Table struct {
	ID          bpf.DatapathTable
	Flows, Tags *ebpf.Map // in which it is from At(0) on
	region      bpf.Region
}

// setTables says where the flow tables are.
func (d *Datapath) setTables(sets uint32) {
	regions := regions(sets)
	at := func(id bpf.DatapathTable) *Table {
		return &Table{id, d.DatapathMaps.Flows, d.DatapathMaps.Tags, regions[id]}
	}
	d.HalfOpen = at(bpf.DatapathTableTABLE_HALF_OPEN)
	d.Established = at(bpf.DatapathTableTABLE_ESTABLISHED)
	d.Connectionless = at(bpf.DatapathTableTABLE_CONNECTIONLESS)
}

// flowTables are all of them, by enum table.
func (d *Datapath) flowTables() []*Table {
	return []*Table{d.HalfOpen, d.Established, d.Connectionless}
}

// regions are those of tables of the same size.
func regions(sets uint32) [bpf.DatapathTableTABLE_END]bpf.Region {
	return bpf.Regions(sets, sets, sets)
}

// MaxEntries is how many sets the table has.
func (t *Table) MaxEntries() uint32 { return t.region.Sets }

// At is where a set of the table is in the maps.
func (t *Table) At(index uint32) uint32 { return t.region.First + index }

// Lookup reads a set.
func (t *Table) Lookup(index uint32, set *bpf.DatapathFlowSet) error {
	return t.Flows.Lookup(t.At(index), set)
}

// Put writes a set.
func (t *Table) Put(index uint32, set bpf.DatapathFlowSet) error {
	return put(t.Flows, t.At(index), &set)
}

// PutTags writes the tags of a set.
func (t *Table) PutTags(index uint32, tags uint64) error { return put(t.Tags, t.At(index), tags) }

// Each calls visit for every set that is there: Options.Change may have left fewer.
func (t *Table) Each(visit func(index uint32, set bpf.DatapathFlowSet)) error {
	for index := range t.MaxEntries() {
		if t.At(index) >= t.Flows.MaxEntries() {
			return nil
		}
		var set bpf.DatapathFlowSet
		if err := t.Lookup(index, &set); err != nil {
			return err
		}
		visit(index, set)
	}
	return nil
}
