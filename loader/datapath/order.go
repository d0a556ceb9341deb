// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net"
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
	for i := range mappedBits(p) {
		bits[i/8] |= 0x80 >> (i % 8)
	}
	return Words(p.Masked().Addr().As16()), Words(bits)
}

// Words returns the bytes of an address as the programs read them, two words of
// the machine's byte order.
func Words(bytes [16]byte) [2]uint64 {
	return [2]uint64{binary.NativeEndian.Uint64(bytes[:]), binary.NativeEndian.Uint64(bytes[8:])}
}

// mappedBits is the length of a prefix of 16-byte addresses: that of IPv4 counts
// from ::ffff:0:0/96.
func mappedBits(p netip.Prefix) int { return p.Bits() + 128 - p.Addr().BitLen() }

// kindBits are those of the prefix of a key that are not of the address.
const kindBits = 64

// PrefixKey is where the map of prefixes has one of a kind and a device; 0: of none.
func PrefixKey(kind bpf.DatapathPrefixKind, device int, p netip.Prefix) bpf.DatapathPrefixKey {
	key := bpf.DatapathPrefixKey{
		Length: kindBits + uint32(mappedBits(p)), Ifindex: uint32(device), Kind: uint16(kind), Family: 6, Address: p.Masked().Addr().As16(),
	}
	if p.Addr().Is4() {
		key.Family = 4
	}
	return key
}

// MACKey is where the map of prefixes has a gateway of a device by its MAC, for packets of a family.
func MACKey(kind bpf.DatapathPrefixKind, device int, mac net.HardwareAddr, family uint8) bpf.DatapathPrefixKey {
	key := bpf.DatapathPrefixKey{Length: kindBits + 48, Ifindex: uint32(device), Kind: uint16(kind), Family: uint16(family)}
	copy(key.Address[:], mac)
	return key
}

// PrefixOf is the network that such a key stands for.
func PrefixOf(key *bpf.DatapathPrefixKey) netip.Prefix {
	a := Address(key.Address)
	return netip.PrefixFrom(a, int(key.Length)-kindBits-128+a.BitLen())
}
