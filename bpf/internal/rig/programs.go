// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"replypath/bpf"
)

// What is changed in the programs, for what BPF_PROG_TEST_RUN cannot bring about.

// What writes the way of a flow, and how long it waits between its two words.
const (
	wayFunction = "set_path"
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
	if _, err := labelTargets(program.Instructions); err != nil {
		return err
	}
	value := program.Instructions[at].Src
	pause := asm.Instructions{
		asm.StoreMem(asm.RFP, waySlot, value, asm.DWord),
		asm.Mov.Imm(value, wayTurns),
		asm.Sub.Imm(value, 1),
		asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.JNE).SetSource(asm.ImmSource), Dst: value, Offset: -2},
		asm.LoadMem(value, asm.RFP, waySlot, asm.DWord),
	}
	pause[0] = pause[0].WithSymbol(program.Instructions[at].Symbol()) // where jumps lead to
	program.Instructions[at] = program.Instructions[at].WithSymbol("")
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

// meanwhileMap holds what another CPU writes, and meanwhileFunction is what writes it.
const (
	meanwhileMap      = "meanwhile"
	meanwhileFunction = "rig_meanwhile"
)

// writes is the element of that map: the first set of a flow table and its tags.
type writes struct {
	Set  bpf.DatapathFlowSet
	Tags uint64
}

// Meanwhile has another CPU write this set, the first of the table that Options name, between the
// search of an inbound packet for its flow and what it changes.
func (d *Datapath) Meanwhile(set bpf.DatapathFlowSet) error {
	if err := d.meanwhile.Put(uint32(0), writes{set, bpf.Tags(set.Digest)}); err != nil {
		return fmt.Errorf("write what another CPU does: %w", err)
	}
	return nil
}

// addMeanwhile puts the writer in the place of questions for prefixes, to which its answer is no. Where an interface has
// gateways that serve all peers, one is asked, between the two: whether the peer is on-link.
func addMeanwhile(spec *ebpf.CollectionSpec, first uint32) error {
	spec.Maps[meanwhileMap] = &ebpf.MapSpec{
		Name: meanwhileMap, Type: ebpf.Array, KeySize: 4,
		ValueSize: uint32(unsafe.Sizeof(writes{})), MaxEntries: 1,
	}
	program := spec.Programs[bpf.DatapathProgReplypathIngress]
	isReplaced, asked := false, ""
	for i := range program.Instructions {
		ins := &program.Instructions[i]
		if ins.IsLoadFromMap() {
			asked = ins.Reference()
		}
		if ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnMapLookupElem && asked == bpf.DatapathMapPrefixes {
			call := asm.Call.Label(meanwhileFunction)
			ins.OpCode, ins.Dst, ins.Src, ins.Constant = call.OpCode, call.Dst, call.Src, call.Constant
			*ins = ins.WithReference(meanwhileFunction)
			isReplaced = true
		}
	}
	if !isReplaced {
		return errors.New("the ingress program does not ask whether a peer is on-link")
	}
	program.Instructions = append(program.Instructions, writer(btf.FuncMetadata(&program.Instructions[0]).Type, first)...)
	return nil
}

// writer copies the element of the map into the table that begins with this set.
func writer(signature btf.Type, first uint32) asm.Instructions {
	const key = -4
	find := func(m string, index uint32) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, key, int64(index), asm.Word),
			asm.LoadMapPtr(asm.R1, 0).WithReference(m),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, key),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "meanwhile_end"),
		}
	}
	duplicate := func(to, from, size int16) (copied asm.Instructions) {
		for at := int16(0); at < size; at += 8 {
			copied = append(copied,
				asm.LoadMem(asm.R1, asm.R6, from+at, asm.DWord),
				asm.StoreMem(asm.R0, to+at, asm.R1, asm.DWord))
		}
		return copied
	}
	var w writes
	function := find(meanwhileMap, 0)
	function[0] = btf.WithFuncMetadata(function[0].WithSymbol(meanwhileFunction).WithSource(asm.Comment("another CPU")),
		&btf.Func{Name: meanwhileFunction, Type: signature, Linkage: btf.StaticFunc})
	function = append(function, asm.Mov.Reg(asm.R6, asm.R0))
	function = append(function, find(bpf.DatapathMapFlows, first)...)
	function = append(function, duplicate(0, 0, int16(unsafe.Sizeof(w.Set)))...)
	function = append(function, find(bpf.DatapathMapTags, first)...)
	function = append(function, duplicate(0, int16(unsafe.Offsetof(w.Tags)), 8)...)
	return append(function, asm.Mov.Imm(asm.R0, 0).WithSymbol("meanwhile_end"), asm.Return())
}
