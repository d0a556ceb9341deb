// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// bytesOf writes the words of an exclusion down as the programs find them.
func bytesOf(words [2]uint64) (bytes [16]byte) {
	binary.NativeEndian.PutUint64(bytes[:], words[0])
	binary.NativeEndian.PutUint64(bytes[8:], words[1])
	return bytes
}

func TestPrefixWords(t *testing.T) {
	for _, test := range []struct {
		prefix        string
		address, mask string
	}{
		{"10.1.2.3/8", "::ffff:10.0.0.0", "ffff:ffff:ffff:ffff:ffff:ffff:ff00:0"},
		{"10.1.2.3/32", "::ffff:10.1.2.3", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"0.0.0.0/0", "::ffff:0.0.0.0", "ffff:ffff:ffff:ffff:ffff:ffff::"},
		{"2001:db8::1/61", "2001:db8::", "ffff:ffff:ffff:fff8::"},
		{"::/0", "::", "::"},
	} {
		address, mask := PrefixWords(netip.MustParsePrefix(test.prefix))
		if got := netip.AddrFrom16(bytesOf(address)); got != netip.AddrFrom16(netip.MustParseAddr(test.address).As16()) {
			t.Errorf("%s: address %s, want %s", test.prefix, got, test.address)
		}
		if got := netip.AddrFrom16(bytesOf(mask)); got != netip.MustParseAddr(test.mask) {
			t.Errorf("%s: mask %s, want %s", test.prefix, got, test.mask)
		}
	}
	if address, mask := PrefixWords(netip.Prefix{}); address != [2]uint64{} || mask != [2]uint64{} {
		t.Errorf("no prefix: %v, %v", address, mask)
	}
}
