// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// change is a number in an array map that a packet changes.
type change struct {
	table  *ebpf.Map
	index  uint32
	offset uintptr
	size   asm.Size
	before uint64
}

// undo puts numbers back to what they were before the packet, so that every run is the first one.
// Each is written as one, as the programs read it: see writeRandomPeer().
func undo(changes []change) (before asm.Instructions) {
	for i, c := range changes {
		done := fmt.Sprintf("undone %d", i)
		before = append(before,
			asm.StoreImm(asm.R10, -4, int64(c.index), asm.Word),
			asm.LoadMapPtr(asm.R1, c.table.FD()),
			asm.Mov.Reg(asm.R2, asm.R10),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, done),
			asm.LoadImm(asm.R1, int64(c.before), asm.DWord),
			asm.StoreMem(asm.R0, int16(c.offset), asm.R1, c.size),
			asm.Mov.Imm(asm.R0, 0).WithSymbol(done),
		)
	}
	return before
}

// undoEach makes every run of a case find what the first one found, and the empty program beside
// it do the same work.
func (c *testCase) undoEach(changes ...change) (wrappers []*wrapper, err error) {
	return c.wrap(func() asm.Instructions { return append(unmark(), undo(changes)...) })
}
