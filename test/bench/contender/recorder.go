// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"replypath/test/topology"
)

// What the recorder reads of struct __sk_buff, and of an IPv4 packet without options in an Ethernet frame.
const (
	dataOffset, dataEndOffset = 76, 80

	sourceMACOffset              = 6
	versionOffset                = 14 // of the IP header, with its length
	sourceOffset, peerPortOffset = 26, 34
	recordedLength               = 38 // to the end of the ports
)

// A line of the recorder's table: peer and own address, ports, interface, MAC.
const (
	lineSize = 64
	lines    = 1024
	hashBits = 10

	lineSelf, linePorts, lineInterface, lineMAC = 4, 8, 12, 16
)

// recorder is about the least that records a flow: a line of a direct-mapped table for each, which the next one of that
// line takes. It knows IPv4 alone, and neither counts nor checks anything.
func recorder() *Contender {
	return &Contender{
		Name: Recorder, About: "a direct-mapped table of 64 KB, a line for each flow, IPv4 only: nothing is counted or checked",
		extra: true, ipv4: true,
		setUp: func(_ context.Context, s *Site, _ Options) (_ Running, err error) {
			table, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: lineSize, MaxEntries: lines})
			if err != nil {
				return nil, fmt.Errorf("make the recorder's table: %w", err)
			}
			defer func() { err = errors.Join(err, table.Close()) }() // the programs have it
			all := new(severalAttached)
			for _, device := range []*topology.Interface{s.Eth0, s.Eth1} {
				for at, does := range map[ebpf.AttachType]asm.Instructions{
					ebpf.AttachTCXIngress: record(table),
					ebpf.AttachTCXEgress:  recall(table, s.Eth1.MAC),
				} {
					one, err := attachProgram(s, ebpf.SchedCLS, does, func(p *ebpf.Program) (link.Link, error) {
						return link.AttachTCX(link.TCXOptions{Interface: device.Index, Program: p, Attach: at})
					})
					if err != nil {
						return nil, errors.Join(err, all.Stop())
					}
					all.running = append(all.running, one)
				}
			}
			return all, nil
		},
	}
}

// record notes by which interface and from which MAC a flow comes.
func record(table *ebpf.Map) asm.Instructions {
	note := asm.Instructions{
		asm.StoreMem(asm.R0, 0, asm.R2, asm.Word).WithSymbol("note"),
		asm.StoreMem(asm.R0, lineSelf, asm.R3, asm.Word),
		asm.StoreMem(asm.R0, linePorts, asm.R4, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, interfaceOffset, asm.Word),
		asm.StoreMem(asm.R0, lineInterface, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, sourceMACOffset, asm.Word),
		asm.StoreMem(asm.R0, lineMAC, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R7, sourceMACOffset+4, asm.Half),
		asm.StoreMem(asm.R0, lineMAC+4, asm.R1, asm.Half),
	}
	return slices.Concat(
		readTuple(), findLine(table), compareLine("note"),
		asm.Instructions{asm.Ja.Label("pass")}, note, pass())
}

// recall sends what is of a recorded flow back the way that this came.
func recall(table *ebpf.Map, source net.HardwareAddr) asm.Instructions {
	swap := asm.Instructions{ // as the packets of the peer have it
		asm.Mov.Reg(asm.R5, asm.R2),
		asm.Mov.Reg(asm.R2, asm.R3),
		asm.Mov.Reg(asm.R3, asm.R5),
		asm.Mov.Reg(asm.R5, asm.R4),
		asm.RSh.Imm(asm.R5, 16),
		asm.LSh.Imm(asm.R4, 16),
		asm.Or.Reg(asm.R4, asm.R5),
		asm.LSh.Imm(asm.R4, 32),
		asm.RSh.Imm(asm.R4, 32),
	}
	macs := append(slices.Clone(source), 0, 0)
	send := asm.Instructions{
		asm.LoadMem(asm.R7, asm.R0, lineInterface, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, interfaceOffset, asm.Word),
		asm.JEq.Reg(asm.R1, asm.R7, "pass"),
		asm.LoadMem(asm.R1, asm.R0, lineMAC, asm.DWord), // and two bytes that the other MAC covers
		asm.StoreMem(asm.R10, -16, asm.R1, asm.DWord),
		asm.LoadImm(asm.R1, int64(binary.NativeEndian.Uint64(macs)), asm.DWord),
		asm.StoreMem(asm.R10, -10, asm.R1, asm.Half),
		asm.RSh.Imm(asm.R1, 16),
		asm.StoreMem(asm.R10, -8, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, -16),
		asm.Mov.Imm(asm.R4, int32(2*len(source))),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
	return slices.Concat(readTuple(), swap, findLine(table), compareLine("pass"), send, pass())
}

// readTuple reads the source into R2, the destination into R3 and the ports into R4; R6 is the packet, R7 its data.
func readTuple() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, dataOffset, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, dataEndOffset, asm.Word),
		asm.Mov.Reg(asm.R0, asm.R7),
		asm.Add.Imm(asm.R0, recordedLength),
		asm.JGT.Reg(asm.R0, asm.R1, "pass"),
		asm.LoadMem(asm.R0, asm.R7, versionOffset, asm.Byte),
		asm.JNE.Imm(asm.R0, 0x45, "pass"),
		asm.LoadMem(asm.R2, asm.R7, sourceOffset, asm.Word),
		asm.LoadMem(asm.R3, asm.R7, sourceOffset+4, asm.Word),
		asm.LoadMem(asm.R4, asm.R7, peerPortOffset, asm.Word),
	}
}

// findLine gets the tuple's line into R0, and keeps the tuple in R2 to R4. Its hash is the upper bits of a product
// (Knuth, The Art of Computer Programming, 6.4).
func findLine(table *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R8, asm.R3),
		asm.LSh.Imm(asm.R8, 32),
		asm.Or.Reg(asm.R8, asm.R2),
		asm.Mov.Reg(asm.R9, asm.R4),
		asm.Mov.Reg(asm.R5, asm.R4),
		asm.LSh.Imm(asm.R5, 16),
		asm.Xor.Reg(asm.R5, asm.R8),
		asm.LoadImm(asm.R1, -0x61c8864680b583eb, asm.DWord),
		asm.Mul.Reg(asm.R5, asm.R1),
		asm.RSh.Imm(asm.R5, 64-hashBits),
		asm.StoreMem(asm.R10, -4, asm.R5, asm.Word),
		asm.LoadMapPtr(asm.R1, table.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.LSh.Imm(asm.R2, 32),
		asm.RSh.Imm(asm.R2, 32),
		asm.Mov.Reg(asm.R3, asm.R8),
		asm.RSh.Imm(asm.R3, 32),
		asm.Mov.Reg(asm.R4, asm.R9),
	}
}

// compareLine goes elsewhere unless the line is the tuple's.
func compareLine(elsewhere string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, elsewhere),
		asm.LoadMem(asm.R1, asm.R0, lineSelf, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R3, elsewhere),
		asm.LoadMem(asm.R1, asm.R0, linePorts, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R4, elsewhere),
	}
}

func pass() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, tcxNext).WithSymbol("pass"), asm.Return()}
}
