// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"

	"replypath/bpf"
)

// Address returns an address as the programs hold it: IPv4 is ::ffff:0:0/96 there.
func Address(bytes [16]uint8) netip.Addr { return netip.AddrFrom16(bytes).Unmap() }

// Port turns a field in network byte order, as it was read, into host order, and back.
func Port(raw uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, raw))
}

// PrefixWords returns the masked address and the mask of a prefix, as Words. One that
// is not valid matches everything.
func PrefixWords(p netip.Prefix) (address, mask [2]uint64) {
	if !p.IsValid() {
		return address, mask
	}
	var bits [16]byte
	for i := range MappedBits(p) {
		bits[i/8] |= 0x80 >> (i % 8)
	}
	return Words(p.Masked().Addr().As16()), Words(bits)
}

// Words returns the bytes of an address as the programs read them, two words of
// the machine's byte order.
func Words(bytes [16]byte) [2]uint64 {
	return [2]uint64{binary.NativeEndian.Uint64(bytes[:]), binary.NativeEndian.Uint64(bytes[8:])}
}

// MappedBits is the length of a prefix of 16-byte addresses: that of IPv4 counts
// from ::ffff:0:0/96.
func MappedBits(p netip.Prefix) int { return p.Bits() + 128 - p.Addr().BitLen() }

// ServedKey is where the map of networks that no interface has finds one.
func ServedKey(p netip.Prefix) bpf.DatapathServedKey {
	return bpf.DatapathServedKey{PrefixLength: uint32(MappedBits(p)), Address: p.Masked().Addr().As16()}
}

// PrefixOf is the network that such a key stands for.
func PrefixOf(key *bpf.DatapathServedKey) netip.Prefix {
	a := Address(key.Address)
	return netip.PrefixFrom(a, int(key.PrefixLength)-128+a.BitLen())
}
