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
)

// place is where a flow is entered of which nothing else is in the set.
type place struct {
	table, tags *ebpf.Map
	index       uint32
	way         int
	digest      uint64
}

func (b *bench) placeOf(table *ebpf.Map, flow bpf.DatapathFlow) place {
	digest := b.datapath.Seeds.Digest(flow.Tuple)
	index, _ := bpf.Sets(digest, table.MaxEntries())
	way, _ := bpf.FreeWay([bpf.DatapathWaysWAYS]uint64{}, digest)
	return place{table: table, tags: b.datapath.TagsOf(table), index: index, way: way, digest: digest}
}

// find returns where a flow is entered.
func (b *bench) find(table *ebpf.Map, flow bpf.DatapathFlow) (place, error) {
	digest := b.datapath.Seeds.Digest(flow.Tuple)
	first, second := bpf.Sets(digest, table.MaxEntries())
	for _, index := range []uint32{first, second} {
		var set bpf.DatapathFlowSet
		if err := table.Lookup(index, &set); err != nil {
			return place{}, fmt.Errorf("read set %d: %w", index, err)
		}
		if way := slices.Index(set.Digest[:], digest); way >= 0 {
			return place{table: table, tags: b.datapath.TagsOf(table), index: index, way: way, digest: digest}, nil
		}
	}
	return place{}, errors.New("the flow is not in its table")
}

// flow reads what is entered.
func (p place) flow() (bpf.DatapathFlow, error) {
	var set bpf.DatapathFlowSet
	if err := p.table.Lookup(p.index, &set); err != nil {
		return bpf.DatapathFlow{}, fmt.Errorf("read set %d: %w", p.index, err)
	}
	return set.Flow[p.way], nil
}

// wayOf puts the flow back to where it came in by.
func (p place) wayOf(flow bpf.DatapathFlow) []change {
	var set bpf.DatapathFlowSet
	at := unsafe.Offsetof(set.Flow) + uintptr(p.way)*unsafe.Sizeof(flow)
	return []change{ // as store_way() of bpf/src/way.h writes it
		{table: p.table, index: p.index, offset: at + unsafe.Offsetof(flow.Ifindex), size: asm.DWord,
			before: *(*uint64)(unsafe.Pointer(&flow.Ifindex))},
		{table: p.table, index: p.index, offset: at + unsafe.Offsetof(flow.Mac), size: asm.DWord,
			before: *(*uint64)(unsafe.Pointer(&flow.Mac))},
	}
}

// with puts the flow back, whose entry is still there; without takes it out.
func (p place) with() []change {
	var digests [bpf.DatapathWaysWAYS]uint64
	digests[p.way] = p.digest
	return p.entered(p.digest, bpf.Tags(digests))
}

func (p place) without() []change { return p.entered(0, 0) }

func (p place) entered(digest, tags uint64) []change {
	offset := unsafe.Offsetof(bpf.DatapathFlowSet{}.Digest) + uintptr(p.way)*unsafe.Sizeof(digest)
	return []change{
		{table: p.table, index: p.index, offset: offset, size: asm.DWord, before: digest},
		{table: p.tags, index: p.index, size: asm.DWord, before: tags},
	}
}

// state gives the flow this one.
func (p place) state(before bpf.DatapathFlowState) change {
	var flow bpf.DatapathFlow
	offset := unsafe.Offsetof(bpf.DatapathFlowSet{}.Flow) + uintptr(p.way)*unsafe.Sizeof(flow) + unsafe.Offsetof(flow.State)
	return change{table: p.table, index: p.index, offset: offset, size: asm.Byte, before: uint64(before)}
}

// wantState wants every run of a case to set what is not set before it.
func (p place) wantState(c *testCase, want bpf.DatapathFlowState) error {
	for _, run := range []struct {
		program *ebpf.Program
		want    bpf.DatapathFlowState
	}{{c.program, want}, {c.baseline, 0}, {c.program, want}} {
		if _, err := run.program.Run(c.options(1)); err != nil {
			return err
		}
		flow, err := p.flow()
		if err != nil {
			return err
		}
		if state := bpf.DatapathFlowState(flow.State); state&want != run.want {
			return fmt.Errorf("the flow's state is %#x, want %#x of %#x", state, run.want, want)
		}
	}
	return nil
}
