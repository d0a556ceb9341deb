// SPDX-License-Identifier: Apache-2.0

package main

import (
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// Of bpf/src/digest.h and tags.h: what the sums are multiplied by, and the matches of tags.
const (
	multiplier = -0x61c8864680b583eb // 0x9e3779b97f4a7c15
	eachByte   = 0x0101010101010101
	tagBits    = 0x7f * eachByte
	matchWays  = 1<<53 | 2<<45 | 3<<37 | 4<<29 | 5<<21 | 6<<13 | 7<<5
)

// findOwn is find() of bpf/src/table.h for IPv4, but for flows of whose tag another one of their set is first:
// one of fifty or so, which it misses. R6 is the digest, R7 its tag in each byte, R8 and R9 are a set's tags and matches.
func findOwn(d *rig.Datapath) asm.Instructions {
	find := digestOwn(d.Seeds)
	for _, other := range []string{"second set", "missed"} {
		half := asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.RSh.Imm(asm.R1, 32)}
		if other == "missed" {
			half = asm.Instructions{asm.Mov.Reg32(asm.R1, asm.R6).WithSymbol("second set")}
		}
		find = append(append(find, half...),
			asm.Mul.Imm(asm.R1, int32(d.Established.MaxEntries())), asm.RSh.Imm(asm.R1, 32),
			asm.StoreMem(asm.R10, indexAt, asm.R1, asm.Word))
		find = append(append(find, lookUp(d.EstablishedTags, indexAt)...),
			asm.JEq.Imm(asm.R0, 0, "missed"),
			asm.LoadMem(asm.R8, asm.R0, 0, asm.DWord),
			asm.Mov.Reg(asm.R9, asm.R8), asm.Xor.Reg(asm.R9, asm.R7),
			asm.LoadImm(asm.R1, tagBits, asm.DWord),
			asm.And.Reg(asm.R9, asm.R1), asm.Add.Reg(asm.R9, asm.R1), asm.Or.Reg(asm.R9, asm.R1),
			asm.Xor.Imm(asm.R9, -1),
			asm.JEq.Imm(asm.R9, 0, "not in "+other))
		find = append(append(find, compareOwn(d)...),
			asm.And.Imm(asm.R8, bpf.Overflowed).WithSymbol("not in "+other),
			asm.JEq.Imm(asm.R8, 0, "missed"),
			asm.Ja.Label(other))
	}
	return append(find, asm.Mov.Imm(asm.R0, 0).WithSymbol("missed"), asm.Mov.Reg(asm.R1, asm.R0).WithSymbol("looked"))
}

// digestOwn is digest() of the key, and tag_of() it.
func digestOwn(seeds bpf.Seeds) asm.Instructions {
	digest := asm.Instructions{asm.Mov.Imm(asm.R6, 0)}
	for _, word := range []int16{3, 7, 8, 9} {
		digest = append(digest,
			asm.LoadMem(asm.R1, asm.R10, keyAt+4*word, asm.Word),
			asm.LoadImm(asm.R2, int64(seeds[word]), asm.DWord),
			asm.Mul.Reg(asm.R1, asm.R2), asm.Add.Reg(asm.R6, asm.R1))
	}
	return append(digest,
		asm.Mov.Reg(asm.R1, asm.R6), asm.RSh.Imm(asm.R1, 32), asm.Xor.Reg(asm.R6, asm.R1),
		asm.LoadImm(asm.R1, multiplier, asm.DWord), asm.Mul.Reg(asm.R6, asm.R1), asm.Or.Imm(asm.R6, 1),
		asm.Mov.Reg(asm.R7, asm.R6), asm.And.Imm(asm.R7, 0x3ff), asm.Mul.Imm(asm.R7, 127),
		asm.RSh.Imm(asm.R7, 10), asm.Add.Imm(asm.R7, 1),
		asm.LoadImm(asm.R1, eachByte, asm.DWord), asm.Mul.Reg(asm.R7, asm.R1))
}

// compareOwn compares the tuple of the first way that matches, and leaves its way in R0, less the digests before it.
func compareOwn(d *rig.Datapath) asm.Instructions {
	set := bpf.DatapathFlowSet{}
	compare := append(lookUp(d.Established, indexAt),
		asm.JEq.Imm(asm.R0, 0, "missed"),
		asm.Mov.Imm(asm.R1, 0), asm.Sub.Reg(asm.R1, asm.R9), asm.And.Reg(asm.R1, asm.R9), asm.RSh.Imm(asm.R1, 7),
		asm.LoadImm(asm.R2, matchWays, asm.DWord), asm.Mul.Reg(asm.R1, asm.R2), asm.RSh.Imm(asm.R1, 61),
		asm.Mul.Imm(asm.R1, int32(unsafe.Sizeof(set.Flow[0]))), asm.Add.Reg(asm.R0, asm.R1),
		asm.Mov.Imm(asm.R1, 0))
	for at := int16(0); at < int16(tupleSize); at += 8 {
		compare = append(compare,
			asm.LoadMem(asm.R2, asm.R0, int16(unsafe.Offsetof(set.Flow))+at, asm.DWord),
			asm.LoadMem(asm.R3, asm.R10, keyAt+at, asm.DWord),
			asm.Xor.Reg(asm.R2, asm.R3), asm.Or.Reg(asm.R1, asm.R2))
	}
	return append(compare, asm.JEq.Imm(asm.R1, 0, "looked"))
}
