// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	tcActUnspec   = -1 // TC_ACT_UNSPEC
	tcActRedirect = 7  // TC_ACT_REDIRECT
	arrivalMark   = 0x1234
)

// Where struct __sk_buff holds tc_index, and where the packet begins and ends; and what a hand-over holds.
const (
	offsetTCIndex = int16(unsafe.Offsetof(rig.Context{}.TCIndex))
	offsetData    = int16(unsafe.Offsetof(rig.Context{}.Data))
	offsetDataEnd = int16(unsafe.Offsetof(rig.Context{}.DataEnd))

	// The scratch memory begins with it.
	handoverIfindex = int16(unsafe.Offsetof(bpf.DatapathHandover{}.Ifindex))
	handoverMark    = int16(unsafe.Offsetof(bpf.DatapathHandover{}.Ticket))
)

func loadProgram(name string, kind ebpf.ProgramType, instructions ...asm.Instruction) (*ebpf.Program, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: kind, Instructions: instructions, License: "Dual BSD/GPL"})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return program, nil
}

// emptyProgram passes every packet.
func emptyProgram() (*ebpf.Program, error) {
	return loadProgram("empty", ebpf.SchedCLS, asm.Mov.Imm(asm.R0, tcActUnspec), asm.Return())
}

// wrap has the same done before every run of a case and of the empty program beside it. BPF_PROG_TEST_RUN cannot set
// every field of a packet, and within one call all its runs share one packet: what one leaves there the next one finds.
func (c *testCase) wrap() (err error) {
	if c.before == nil {
		return nil
	}
	if c.program, err = c.wrapped(c.program, c.before()); err != nil {
		return err
	}
	c.baseline, err = c.wrapped(c.baseline, c.before())
	return err
}

// wrapped does something to the packet and then tail calls a program.
func (c *testCase) wrapped(target *ebpf.Program, before asm.Instructions) (*ebpf.Program, error) {
	programs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make program array: %w", err)
	}
	c.arrays = append(c.arrays, programs)
	if err := programs.Put(uint32(0), target); err != nil {
		return nil, fmt.Errorf("enter program: %w", err)
	}
	instructions := append(asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, before...)
	return loadProgram("wrapper", ebpf.SchedCLS, append(instructions,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, programs.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, tcActUnspec),
		asm.Return())...)
}

// withPacket has R1 point to the packet, if it has so many bytes, and does something with that.
func withPacket(size int, with ...asm.Instruction) asm.Instructions {
	return append(asm.Instructions{
		asm.LoadMem(asm.R1, asm.R6, offsetData, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, offsetDataEnd, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, int32(size)),
	}, unless(asm.Instruction{OpCode: jump.SetJumpOp(asm.JGT).SetSource(asm.RegSource), Dst: asm.R3, Src: asm.R2}, with)...)
}

const jump = asm.OpCode(asm.JumpClass)

// unless jumps over what is to be done, by its length: labels would have to differ.
func unless(condition asm.Instruction, done asm.Instructions) asm.Instructions {
	for _, ins := range done {
		condition.Offset += int16(ins.Width())
	}
	return append(asm.Instructions{condition}, done...)
}

// rewrite makes the packet have these bytes again, from an offset on.
func rewrite(offset int, bytes []byte) asm.Instructions {
	var stores asm.Instructions
	for at := 0; at < len(bytes); {
		size, value := nextWord(bytes[at:])
		stores = append(stores,
			asm.LoadImm(asm.R4, int64(value), asm.DWord),
			asm.StoreMem(asm.R1, int16(offset+at), asm.R4, size))
		at += size.Sizeof()
	}
	return withPacket(offset+len(bytes), stores...)
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

// randomPeer writes an address into the packet at this offset whose last 32 bits are the base and, where the mask is
// set, random. It does so in as large pieces as the programs read: a number that was written in parts, or by
// bpf_skb_store_bytes, cannot be read before all that the processor had begun until then is done, the last run's wait
// for memory included.
func randomPeer(e endpoints, offset int, mask, base int32) asm.Instructions {
	size, end := asm.Word, offset+4
	if e.family == "ipv6" { // its last 8 bytes, of which the first 4 are 0
		size, end = asm.DWord, offset+16
	}
	return append(asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm(asm.R0, mask),
		asm.Or.Imm(asm.R0, base),
		asm.HostTo(asm.BE, asm.R0, size),
	}, withPacket(end, asm.StoreMem(asm.R1, int16(end-size.Sizeof()), asm.R0, size))...)
}

// sourceOffset is where a frame's source address is.
func sourceOffset(e endpoints) int {
	if e.family == "ipv6" {
		return ethernetSize + 8
	}
	return ethernetSize + 12
}
