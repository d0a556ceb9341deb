// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	tcActUnspec   = -1 // TC_ACT_UNSPEC
	tcActShot     = 2  // TC_ACT_SHOT
	tcActRedirect = 7  // TC_ACT_REDIRECT
	arrivalMark   = 0x1234
)

// Where struct __sk_buff holds tc_index, and where the packet begins and ends.
const (
	offsetTCIndex = int16(unsafe.Offsetof(rig.Context{}.TCIndex))
	offsetData    = int16(unsafe.Offsetof(rig.Context{}.Data))
	offsetDataEnd = int16(unsafe.Offsetof(rig.Context{}.DataEnd))
)

// emptyProgram passes every packet.
func emptyProgram() (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty",
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, tcActUnspec),
			asm.Return(),
		},
		License: "Dual BSD/GPL",
	})
}

// wrapper makes a program that does something to the packet and then tail calls
// another. BPF_PROG_TEST_RUN cannot set every field of a packet, and within one
// call all its runs share one packet: what one leaves there the next one finds.
type wrapper struct {
	program *ebpf.Program
	target  *ebpf.Map
}

func newWrapper(target *ebpf.Program, before asm.Instructions) (*wrapper, error) {
	programs, err := ebpf.NewMap(&ebpf.MapSpec{
		Type:       ebpf.ProgramArray,
		KeySize:    4,
		ValueSize:  4,
		MaxEntries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("make program array: %w", err)
	}
	if err := programs.Put(uint32(0), target); err != nil {
		programs.Close()
		return nil, fmt.Errorf("enter program: %w", err)
	}
	instructions := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	instructions = append(instructions, before...)
	instructions = append(instructions,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, programs.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, tcActUnspec),
		asm.Return(),
	)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "wrapper",
		Type:         ebpf.SchedCLS,
		Instructions: instructions,
		License:      "Dual BSD/GPL",
	})
	if err != nil {
		programs.Close()
		return nil, fmt.Errorf("load wrapper: %w", err)
	}
	return &wrapper{program: program, target: programs}, nil
}

func (w *wrapper) close() {
	w.program.Close()
	w.target.Close()
}

// wrap has the same done before every run of a case and of the empty program beside it.
func (c *testCase) wrap(before func() asm.Instructions) (wrappers []*wrapper, err error) {
	program, err := newWrapper(c.program, before())
	if err != nil {
		return nil, err
	}
	baseline, err := newWrapper(c.baseline, before())
	if err != nil {
		program.close()
		return nil, err
	}
	c.program, c.baseline = program.program, baseline.program
	return []*wrapper{program, baseline}, nil
}

// handovers is the map of the datapath whose cases are being made: each group has one of its own.
var handovers *ebpf.Map

// unmark makes every packet look as if it had just been sent, and the one before as if it had come to its target: what
// never came is counted as lost.
func unmark() asm.Instructions {
	ifindexOffset := int16(unsafe.Offsetof(bpf.DatapathHandover{}.Ifindex))
	return asm.Instructions{
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R6, offsetTCIndex, asm.R1, asm.Word),
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, handovers.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "unmarked"),
		asm.StoreImm(asm.R0, ifindexOffset, 0, asm.Word),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("unmarked"),
	}
}

// arrive makes every packet look as if it had just been moved to this
// interface: what the program there takes away is set anew.
func arrive(ifindex uint32) asm.Instructions {
	ifindexOffset := int16(unsafe.Offsetof(bpf.DatapathHandover{}.Ifindex))
	markOffset := int16(unsafe.Offsetof(bpf.DatapathHandover{}.Mark))

	return asm.Instructions{
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, handovers.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "unknown"),
		asm.StoreImm(asm.R0, ifindexOffset, int64(ifindex), asm.Word),
		asm.StoreImm(asm.R0, markOffset, arrivalMark, asm.Half),
		asm.Mov.Imm(asm.R1, arrivalMark),
		asm.StoreMem(asm.R6, offsetTCIndex, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("unknown"),
	}
}

// toHost makes every packet one for this host, which the kernel tells by the MAC address that it
// takes the first bytes for.
func toHost() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, unix.PACKET_HOST),
		asm.FnSkbChangeType.Call(),
	}
}

// rewrite makes the packet begin with these bytes again.
func rewrite(bytes []byte) asm.Instructions {
	before := asm.Instructions{
		asm.LoadMem(asm.R1, asm.R6, offsetData, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, offsetDataEnd, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, int32(len(bytes))),
		asm.JGT.Reg(asm.R3, asm.R2, "rewritten"),
	}
	for at := 0; at < len(bytes); {
		size, value := nextWord(bytes[at:])
		before = append(before,
			asm.LoadImm(asm.R4, int64(value), asm.DWord),
			asm.StoreMem(asm.R1, int16(at), asm.R4, size))
		at += size.Sizeof()
	}
	return append(before, asm.Mov.Imm(asm.R0, 0).WithSymbol("rewritten"))
}

// nextWord is the largest number that bytes begin with.
func nextWord(bytes []byte) (asm.Size, uint64) {
	switch {
	case len(bytes) >= 8:
		return asm.DWord, binary.NativeEndian.Uint64(bytes)
	case len(bytes) >= 4:
		return asm.Word, uint64(binary.NativeEndian.Uint32(bytes))
	case len(bytes) >= 2:
		return asm.Half, uint64(binary.NativeEndian.Uint16(bytes))
	}
	return asm.Byte, uint64(bytes[0])
}
