// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
	"replypath/test/await"
)

// TestLookupsAreInlined wants every lookup to be of one map: only then does the kernel inline it where it is in an
// array, and call the map's own function else. Where the compiler has made one of several, two functions are
// called, one of them by pointer.
func TestLookupsAreInlined(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	await.Must(t, err)
	lookups := 0
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		instructions := spec.Programs[name].Instructions
		entered := entries(instructions)
		var function string
		for at, ins := range instructions {
			if symbol := ins.Symbol(); symbol != "" {
				function = symbol
			}
			if !ins.IsBuiltinCall() || ins.Constant != int64(asm.FnMapLookupElem) {
				continue
			}
			lookups++
			if err := wantOneMap(instructions, entered, at); err != nil {
				t.Errorf("%s, %s(): %v", name, function, err)
			}
		}
	}
	t.Logf("%d lookups, each of one map", lookups)
	if lookups == 0 {
		t.Error("no lookup was looked at")
	}
}

// entries are the instructions that others jump to, by their number.
func entries(instructions asm.Instructions) map[int]bool {
	numbers := map[asm.RawInstructionOffset]int{}
	for it := instructions.Iterate(); it.Next(); {
		numbers[it.Offset] = it.Index
	}
	entered := map[int]bool{}
	for it := instructions.Iterate(); it.Next(); {
		op := it.Ins.OpCode.JumpOp()
		if op == asm.InvalidJumpOp || op == asm.Call || op == asm.Exit {
			continue
		}
		to := int64(it.Offset) + 1 + int64(it.Ins.Offset) // jumps are one instruction wide
		entered[numbers[asm.RawInstructionOffset(to)]] = true
	}
	return entered
}

// wantOneMap looks for what gives the call at this instruction its map: it has to load that, on the way there that
// nothing jumps into.
func wantOneMap(instructions asm.Instructions, entered map[int]bool, call int) error {
	for at := call; at > 0 && !entered[at]; at-- {
		before := instructions[at-1]
		if before.IsLoadFromMap() && before.Dst == asm.R1 {
			if before.Src == asm.PseudoMapFD {
				return nil
			}
			break
		}
		if writesR1(before) {
			break
		}
	}
	return fmt.Errorf("the lookup at instruction %d is of more than one map", call)
}

// writesR1 is true of calls as well, which leave nothing there, and of what does not go on to the next instruction.
func writesR1(ins asm.Instruction) bool {
	switch class := ins.OpCode.Class(); {
	case class.IsALU(), class.IsLoad():
		return ins.Dst == asm.R1
	case class.IsJump():
		op := ins.OpCode.JumpOp()
		return op == asm.Call || op == asm.Ja || op == asm.Exit
	default:
		return false
	}
}
