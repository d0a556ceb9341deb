package main

import (
	"fmt"
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
		var set bpf.DatapathFlowSet
		if err := p.table.Lookup(p.index, &set); err != nil {
			return fmt.Errorf("read set %d: %w", p.index, err)
		}
		if state := bpf.DatapathFlowState(set.Flow[p.way].State); state&want != run.want {
			return fmt.Errorf("the flow's state is %#x, want %#x of %#x", state, run.want, want)
		}
	}
	return nil
}
