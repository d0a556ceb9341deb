// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/cilium/ebpf/asm"

// sourceOffset is where a frame's source address is.
func sourceOffset(e endpoints) int {
	const ethernet, addresses4, addresses6 = 14, 12, 8
	if e.family == "ipv6" {
		return ethernet + addresses6
	}
	return ethernet + addresses4
}

// writePeers makes a case write a random address into its packet before every run, and
// the empty program beside it too.
func (c *testCase) writePeers(e endpoints, offset int, mask, base int32) (wrappers []*wrapper, err error) {
	return c.wrap(func() asm.Instructions { return append(unmark(), writeRandomPeer(e, offset, mask, base)...) })
}

// writeRandomPeer writes an address into the packet whose last 32 bits are the base and,
// where the mask is set, random. It does so in as large pieces as the programs read: a
// number that was written in parts, or by bpf_skb_store_bytes, cannot be read before all
// that the processor had begun until then is done, the last run's wait for memory
// included.
func writeRandomPeer(e endpoints, offset int, mask, base int32) asm.Instructions {
	size, end := asm.Word, offset+4
	if e.family == "ipv6" { // its last 8 bytes, of which the first 4 are 0
		size, end = asm.DWord, offset+16
	}
	return asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm(asm.R0, mask),
		asm.Or.Imm(asm.R0, base),
		asm.HostTo(asm.BE, asm.R0, size),
		asm.LoadMem(asm.R1, asm.R6, offsetData, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, offsetDataEnd, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, int32(end)),
		asm.JGT.Reg(asm.R3, asm.R2, "done"),
		asm.StoreMem(asm.R1, int16(end-size.Sizeof()), asm.R0, size),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("done"),
	}
}
