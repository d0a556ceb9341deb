// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// registers is a set of them, as bits.
type registers uint16

const (
	arguments = registers(1<<asm.R1 | 1<<asm.R2 | 1<<asm.R3 | 1<<asm.R4 | 1<<asm.R5)
	result    = registers(1 << asm.R0)
)

// labelTargets names where jumps lead, so that they lead there whatever is put between. It returns the target of each jump.
func labelTargets(all asm.Instructions) (map[int]int, error) {
	indexes := make(map[int]int) // by what jumps count, as not all instructions are of the same width
	for iter := all.Iterate(); iter.Next(); {
		indexes[int(iter.Offset)] = iter.Index
	}
	targets := make(map[int]int)
	for iter := all.Iterate(); iter.Next(); {
		jump := iter.Ins
		if !endsBlock(*jump) || jump.OpCode.JumpOp() == asm.Exit {
			continue
		}
		target, found := indexes[int(iter.Offset)+1+int(jump.Offset)]
		if isLong := jump.OpCode == asm.LongJump("").OpCode; !found || isLong || jump.Reference() != "" {
			return nil, fmt.Errorf("instruction %d is a jump of an unknown kind: %v", iter.Index, jump)
		}
		if all[target].Symbol() == "" {
			all[target] = all[target].WithSymbol(fmt.Sprintf("instruction %d", target))
		}
		*jump = jump.WithReference(all[target].Symbol())
		jump.Offset = -1 // as the package asm wants it
		targets[iter.Index] = target
	}
	return targets, nil
}

// endsBlock tells whether what runs next may stand elsewhere.
func endsBlock(ins asm.Instruction) bool {
	return ins.OpCode.Class().IsJump() && ins.OpCode.JumpOp() != asm.Call
}

// freeRegisters returns for each instruction which registers may be written before it: those that are written on every way
// before they are read.
func freeRegisters(all asm.Instructions, targets map[int]int) [][]asm.Register {
	functions := make(map[string]int)
	for i := range all {
		if name := all[i].Symbol(); name != "" {
			functions[name] = i
		}
	}
	needed := make([]registers, len(all)+1)
	for changed := true; changed; {
		changed = false
		for i := len(all) - 1; i >= 0; i-- {
			var after registers
			if op := all[i].OpCode.JumpOp(); op != asm.Exit && op != asm.Ja {
				after = needed[i+1]
			}
			if target, jumps := targets[i]; jumps {
				after |= needed[target]
			}
			read, written := access(all[i])
			if entry, known := functions[all[i].Reference()]; known && all[i].IsFunctionCall() {
				read = needed[entry] & arguments
			}
			if before := read | after&^written; before != needed[i] {
				needed[i], changed = before, true
			}
		}
	}
	free := make([][]asm.Register, len(all))
	for i := range all {
		for r := asm.R0; r < asm.RFP; r++ {
			if needed[i]&(1<<r) == 0 {
				free[i] = append(free[i], r)
			}
		}
	}
	return free
}

// access tells which registers an instruction reads, where in doubt too many, and which it writes, where in doubt too few.
func access(ins asm.Instruction) (read, written registers) {
	dst, src := registers(1<<ins.Dst), registers(1<<ins.Src)
	op := ins.OpCode
	if op.Source() != asm.RegSource && !op.Class().IsLoad() && !op.Class().IsStore() {
		src = 0
	}
	switch class := op.Class(); {
	case op.JumpOp() == asm.Call:
		return arguments, result | arguments
	case op.JumpOp() == asm.Exit:
		return result, 0
	case op.JumpOp() == asm.Ja:
		return 0, 0
	case class == asm.LdClass:
		return 0, dst
	case class == asm.LdXClass, op.ALUOp() == asm.Mov:
		return src, dst
	case op.Mode() == asm.AtomicMode:
		return dst | src | result, 0
	}
	return dst | src, 0
}
