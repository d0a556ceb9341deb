// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// place is where a flow is in a table, or would be.
type place struct {
	table  *rig.Table
	index  uint32 // in the table
	way    int
	digest uint64
}

// placeOf is where a flow is entered of which nothing else is in the set.
func (b *bench) placeOf(table *rig.Table, flow bpf.DatapathFlow) place {
	digest := b.datapath.Seeds.Digest(flow.Tuple)
	index, _ := bpf.Sets(digest, table.MaxEntries())
	way, _ := rig.FreeWay([bpf.DatapathWaysWAYS]uint64{}, digest)
	return place{table, index, way, digest}
}

// find returns where a flow is entered.
func (b *bench) find(table *rig.Table, flow bpf.DatapathFlow) (place, error) {
	at := b.placeOf(table, flow)
	first, second := bpf.Sets(at.digest, table.MaxEntries())
	for _, at.index = range []uint32{first, second} {
		set, err := at.set()
		if err != nil {
			return at, err
		}
		if at.way = slices.Index(set.Digest[:], at.digest); at.way >= 0 {
			return at, nil
		}
	}
	return at, errors.New("the flow is not in its table")
}

func (p place) set() (set bpf.DatapathFlowSet, err error) {
	if err := p.table.Lookup(p.index, &set); err != nil {
		return set, fmt.Errorf("read set %d: %w", p.index, err)
	}
	return set, nil
}

// change is a number in an array map that a packet changes, and what it was before.
type change struct {
	table  *ebpf.Map
	index  uint32
	offset uintptr
	size   asm.Size
	before uint64
}

// undo puts numbers back to what they were before the packet, so that every run is the first one.
// Each is written as one, as the programs read it: see randomPeer().
func undo(changes []change) (before asm.Instructions) {
	for _, c := range changes {
		before = append(before, elementOf(c.table, c.index,
			asm.LoadImm(asm.R1, int64(c.before), asm.DWord),
			asm.StoreMem(asm.R0, int16(c.offset), asm.R1, c.size))...)
	}
	return before
}

// undo makes every run of a case find what the first one found, and the empty program beside it do the same work.
func (c *testCase) undo(changes ...change) {
	c.before = func() asm.Instructions { return append(c.bench.unmark(), undo(changes)...) }
}

// with puts the flow back, whose entry is still there; without takes it out.
func (p place) with() []change {
	var digests [bpf.DatapathWaysWAYS]uint64
	digests[p.way] = p.digest
	return p.holds(p.digest, bpf.Tags(digests))
}

func (p place) without() []change { return p.holds(0, 0) }

func (p place) holds(digest, tags uint64) []change {
	offset := unsafe.Offsetof(bpf.DatapathFlowSet{}.Digest) + uintptr(p.way)*unsafe.Sizeof(digest)
	return []change{
		{p.table.Flows, p.table.At(p.index), offset, asm.DWord, digest},
		{p.table.Tags, p.table.At(p.index), 0, asm.DWord, tags},
	}
}
