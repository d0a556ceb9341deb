// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in an Ethernet frame.
const (
	offsetEtherType    = 12
	offsetIPv4Source   = 26
	offsetIPv6Source   = 22
	offsetIPv4Receiver = offsetIPv4Source + 4
	offsetIPv6Receiver = offsetIPv6Source + 16
)

// aboutAddress is a filter for untagged Ethernet frames with a packet from or to an address.
func aboutAddress(a netip.Addr) []bpf.Instruction {
	etherType, offsets := uint32(unix.ETH_P_IP), []uint32{offsetIPv4Source, offsetIPv4Receiver}
	if a.Is6() {
		etherType, offsets = unix.ETH_P_IPV6, []uint32{offsetIPv6Source, offsetIPv6Receiver}
	}
	words := a.AsSlice()
	filter := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetEtherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherType, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	for _, offset := range offsets {
		for at := 0; at < len(words); at += 4 {
			// The rest of this comparison, with the return at its end, is skipped.
			rest := uint8((len(words)-at)/4*2 - 1)
			filter = append(filter,
				bpf.LoadAbsolute{Off: offset + uint32(at), Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(words[at:]), SkipFalse: rest})
		}
		filter = append(filter, bpf.RetConstant{Val: 1 << 18})
	}
	return append(filter, bpf.RetConstant{Val: 0})
}

// attachFilter has the kernel keep from a socket what the filter does not want.
func attachFilter(fd int, filter []bpf.Instruction) error {
	instructions, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	program := make([]unix.SockFilter, len(instructions))
	for i, raw := range instructions {
		program[i] = unix.SockFilter{Code: raw.Op, Jt: raw.Jt, Jf: raw.Jf, K: raw.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
