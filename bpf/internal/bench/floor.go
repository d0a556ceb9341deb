// SPDX-License-Identifier: Apache-2.0

package main

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
)

// floor is the least that a case of the crowd can cost: the same case for one flow, which
// is in a cache, after one read of a random entry of the table, on whose content nothing
// depends but a jump that is never taken. Every table of that size has to be read once.
func (c *crowd) floor(known testCase) (testCase, error) {
	read := append(unmark(), c.readEntry()...)
	program, err := newWrapper(known.program, read)
	if err != nil {
		return known, err
	}
	c.wrappers = append(c.wrappers, program)
	baseline, err := newWrapper(known.baseline, append(unmark(), asm.FnGetPrandomU32.Call()))
	if err != nil {
		return known, err
	}
	c.wrappers = append(c.wrappers, baseline)
	known.name = "floor: one read of memory, then " + known.name
	known.bound, known.aim = 0, 0
	known.prepare = nil // enterFlows has done it
	known.program, known.baseline = program.program, baseline.program
	return known, nil
}

// readEntry loads a word of a random flow.
func (c *crowd) readEntry() asm.Instructions {
	const nobody = 0x7fffffff // an ifindex that no interface has
	set, flow := bpf.DatapathFlowSet{}, bpf.DatapathFlow{}
	return asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.Mov.Reg32(asm.R7, asm.R0),
		asm.And.Imm(asm.R7, int32(len(set.Flow)-1)), // the way
		asm.Mul.Imm(asm.R7, int32(unsafe.Sizeof(flow))),
		asm.Mov.Reg32(asm.R0, asm.R0),
		asm.Mul.Imm(asm.R0, crowdSets),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.R10, -4, asm.R0, asm.Word),
		asm.LoadMapPtr(asm.R1, c.datapath.Established.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "read"),
		asm.Add.Reg(asm.R0, asm.R7),
		asm.LoadMem(asm.R1, asm.R0, int16(unsafe.Offsetof(set.Flow)+unsafe.Offsetof(flow.Ifindex)), asm.Word),
		asm.JNE.Imm(asm.R1, nobody, "read"),
		asm.Mov.Imm(asm.R0, tcActUnspec),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("read"),
	}
}
