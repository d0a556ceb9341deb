// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
)

// What writes the way of a flow, and how long it waits between its two words.
const (
	wayFunction = "set_way"
	waySlot     = -64 // of the stack, which the function has no use for
	wayTurns    = 1000
)

// addPause has the ingress program take its time between the two words of a flow's way, so that two
// CPUs that write them at once are likely to meet there.
func addPause(spec *ebpf.CollectionSpec) error {
	program := spec.Programs[bpf.DatapathProgReplypathIngress]
	begin, end := functionIn(program.Instructions, wayFunction)
	at := -1
	for i := begin; i < end; i++ {
		if ins := program.Instructions[i]; isWayStore(ins) {
			at = i
		}
		if ins := program.Instructions[i]; ins.Dst == asm.RFP && ins.OpCode.Class().IsStore() && ins.Offset <= waySlot {
			return errors.New(wayFunction + " uses the whole stack")
		}
	}
	if at < 0 {
		return errors.New(wayFunction + " writes no way")
	}
	value := program.Instructions[at].Src
	pause := asm.Instructions{
		asm.StoreMem(asm.RFP, waySlot, value, asm.DWord),
		asm.Mov.Imm(value, wayTurns),
		asm.Sub.Imm(value, 1),
		asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.JNE).SetSource(asm.ImmSource), Dst: value, Offset: -2},
		asm.LoadMem(value, asm.RFP, waySlot, asm.DWord),
	}
	widenJumps(program.Instructions[begin:end], at-begin, int16(len(pause)))
	program.Instructions = append(append(program.Instructions[:at:at], pause...), program.Instructions[at:]...)
	return nil
}

// isWayStore tells whether the instruction writes the first word of a flow's way.
func isWayStore(ins asm.Instruction) bool {
	return ins.OpCode.Class() == asm.StXClass && ins.OpCode.Size() == asm.DWord &&
		ins.Dst != asm.RFP && uintptr(ins.Offset) == unsafe.Offsetof(bpf.DatapathFlow{}.Ifindex)
}

// functionIn is where the instructions of a function are.
func functionIn(all asm.Instructions, name string) (begin, end int) {
	begin = -1
	for i := range all {
		switch symbol := all[i].Symbol(); {
		case symbol == name:
			begin = i
		case symbol != "" && begin >= 0:
			return begin, i
		}
	}
	if begin < 0 {
		return 0, 0
	}
	return begin, len(all)
}

// widenJumps has the jumps of a function lead to where they did, once so many more instructions stand
// before one of them.
func widenJumps(function asm.Instructions, at int, more int16) {
	var before asm.RawInstructionOffset // what jumps count, which is not all of the same width
	for i := range at {
		before += function[i].Width()
	}
	var here asm.RawInstructionOffset
	for i := range function {
		ins := &function[i]
		here += ins.Width()
		if !ins.OpCode.Class().IsJump() || ins.OpCode.JumpOp() == asm.Call || ins.OpCode.JumpOp() == asm.Exit {
			continue
		}
		to := int64(here) + int64(ins.Offset)
		switch isBehind := to > int64(before); {
		case i < at && isBehind:
			ins.Offset += more
		case i >= at && !isBehind:
			ins.Offset -= more
		}
	}
}
