// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// Probe is what a wrapped program is told to do to the packet before the program runs, for what BPF_PROG_TEST_RUN
// cannot set by itself. It travels in the control block, which the datapath does not use.
type Probe struct {
	TCIndex uint16
	VLAN    *uint16 // tag control information of a tag out of band
	PktType *uint32 // PACKET_* of <linux/if_packet.h>
	Length  uint32  // cuts the frame; the kernel refuses to run on less than an IP header
}

// Control block words on the way in.
const (
	probeTCIndex = iota
	probeVLAN    // plus probeSet
	probePktType // plus probeSet
	probeLength
)

// Control block words on the way out.
const (
	probedTCIndex = iota
	probedVLANPresent
	probedVLANTCI
	probedPktType
)

const probeSet = 1 << 16 // tells a value of 0 from none

// Probed is what the packet looked like after the program.
type Probed struct {
	TCIndex     uint16
	VLANPresent bool
	VLANTCI     uint16
	PktType     uint32
}

// Set writes the orders into the context.
func (p Probe) Set(ctx *Context) {
	ctx.CB[probeTCIndex] = uint32(p.TCIndex)
	if p.VLAN != nil {
		ctx.CB[probeVLAN] = probeSet | uint32(*p.VLAN)
	}
	if p.PktType != nil {
		ctx.CB[probePktType] = probeSet | *p.PktType
	}
	ctx.CB[probeLength] = p.Length
}

// ReadProbed reads the answers.
func ReadProbed(ctx *Context) Probed {
	return Probed{
		TCIndex:     uint16(ctx.CB[probedTCIndex]),
		VLANPresent: ctx.CB[probedVLANPresent] != 0,
		VLANTCI:     uint16(ctx.CB[probedVLANTCI]),
		PktType:     ctx.CB[probedPktType],
	}
}

// addProbes adds every program of the datapath a second time, called by a
// wrapper. The names stay within the 15 bytes that the kernel keeps.
func addProbes(programs map[string]*ebpf.ProgramSpec) {
	for _, name := range probedPrograms {
		probe := programs[name].Copy()
		probe.Name = "probe"
		probe.Instructions = append(wrap(name, probe.Instructions), probe.Instructions...)
		programs[probeName(name)] = probe
	}
}

var probedPrograms = []string{
	bpf.DatapathProgReplypathIngress,
	bpf.DatapathProgReplypathEgress,
	bpf.DatapathProgReplypathIngressL3,
	bpf.DatapathProgReplypathEgressL3,
}

func probeName(program string) string {
	return "probe_" + program
}

// wrap is a function that carries out the orders, calls the program, and writes the answers.
func wrap(name string, program asm.Instructions) asm.Instructions {
	var (
		c       Context
		tcIndex = int16(unsafe.Offsetof(c.TCIndex))
		fields  = [...]struct {
			word   int
			offset int16
		}{
			{probedTCIndex, tcIndex},
			{probedVLANPresent, int16(unsafe.Offsetof(c.VLANPresent))},
			{probedVLANTCI, int16(unsafe.Offsetof(c.VLANTCI))},
			{probedPktType, int16(unsafe.Offsetof(c.PktType))},
		}
	)
	wrapper := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),

		asm.LoadMem(asm.R2, asm.R6, word(probeTCIndex), asm.Word),
		asm.JEq.Imm(asm.R2, 0, "vlan"),
		asm.StoreMem(asm.R6, tcIndex, asm.R2, asm.Word),

		asm.LoadMem(asm.R3, asm.R6, word(probeVLAN), asm.Word).WithSymbol("vlan"),
		asm.JEq.Imm(asm.R3, 0, "type"),
		asm.And.Imm(asm.R3, probeSet-1),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, int32(Port(unix.ETH_P_8021Q))),
		asm.FnSkbVlanPush.Call(),

		asm.LoadMem(asm.R2, asm.R6, word(probePktType), asm.Word).WithSymbol("type"),
		asm.JEq.Imm(asm.R2, 0, "length"),
		asm.And.Imm(asm.R2, probeSet-1),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnSkbChangeType.Call(),

		asm.LoadMem(asm.R2, asm.R6, word(probeLength), asm.Word).WithSymbol("length"),
		asm.JEq.Imm(asm.R2, 0, "run"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkbChangeTail.Call(),

		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("run"),
		asm.Call.Label(name),
		asm.Mov.Reg(asm.R7, asm.R0),
	}
	for _, f := range fields {
		wrapper = append(wrapper,
			asm.LoadMem(asm.R1, asm.R6, f.offset, asm.Word),
			asm.StoreMem(asm.R6, word(f.word), asm.R1, asm.Word),
		)
	}
	wrapper = append(wrapper, asm.Mov.Reg(asm.R0, asm.R7), asm.Return())

	// The verifier wants the type and a source line of every function as soon as it has one.
	function := &btf.Func{Name: "probe", Type: btf.FuncMetadata(&program[0]).Type, Linkage: btf.GlobalFunc}
	wrapper[0] = btf.WithFuncMetadata(wrapper[0].WithSymbol("probe").WithSource(asm.Comment("the wrapper of a probe")), function)
	return wrapper
}

// word is the offset of a word of the control block.
func word(index int) int16 {
	return int16(unsafe.Offsetof(Context{}.CB) + 4*uintptr(index))
}
