// SPDX-License-Identifier: Apache-2.0

package hostmaps

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/test/await"
)

// TestOwnAddresses: an address of lo is like any other where the configuration names it.
func TestOwnAddresses(t *testing.T) {
	address := netip.MustParseAddr
	got := OwnAddresses(&discover.Result{Own: []discover.OwnAddress{
		{Address: address("10.4.0.100"), Interface: 3}, {Address: address("198.51.100.7"), LoopbackOnly: true, Interface: 1},
		{Address: address("192.0.2.1"), LoopbackOnly: true, Interface: 1},
	}}, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}, func(device int) uint16 { return uint16(device / 3) })
	const own, loopback = bpf.DatapathOwnFlagsOWN_ADDRESS, bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY
	await.Same(t, "addresses", map[[16]byte]uint32{
		address("10.4.0.100").As16():   uint32(own) | 1<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT,
		address("198.51.100.7").As16(): uint32(own),
		address("192.0.2.1").As16():    uint32(own | loopback),
	}, got)
}

// TestServedAddresses: local routes that are too large to be taken apart are networks, and who names one last counts.
func TestServedAddresses(t *testing.T) {
	prefix := netip.MustParsePrefix
	got := ServedAddresses(&discover.Result{OwnPrefixes: []discover.OwnPrefix{
		{Prefix: prefix("10.9.0.0/24")}, {Prefix: prefix("10.10.0.0/16"), LoopbackOnly: true},
	}}, []netip.Prefix{prefix("198.51.100.7/32"), prefix("2001:db8:9::5/128")}, []netip.Prefix{prefix("198.51.100.7/32")})
	const own, loopback = bpf.DatapathOwnFlagsOWN_ADDRESS, bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY
	key := func(network string) bpf.DatapathPrefixKey {
		return datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_SERVED, 0, prefix(network))
	}
	want := map[bpf.DatapathPrefixKey]uint32{
		key("10.10.0.0/16"):      uint32(own | loopback),
		key("198.51.100.7/32"):   uint32(own | bpf.DatapathOwnFlagsOWN_CONFIGURED),
		key("2001:db8:9::5/128"): uint32(own | bpf.DatapathOwnFlagsOWN_TRANSLATED),
	}
	await.Same(t, "networks", want, got)
}

// Whatever takes less than another interface is narrow.
func TestMarkNarrow(t *testing.T) {
	const narrow = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NARROW)
	for _, test := range []struct {
		name string
		mtus []uint32
		want []uint8
	}{
		{"one", []uint32{1500}, []uint8{0}},
		{"alike", []uint32{1500, 1500}, []uint8{0, 0}},
		{"three", []uint32{1500, 9000, 1400}, []uint8{narrow, 0, narrow}},
	} {
		t.Run(test.name, func(t *testing.T) {
			entries := make(map[uint32]bpf.DatapathInterface)
			for id, mtu := range test.mtus {
				entries[uint32(id)] = bpf.DatapathInterface{Mtu: mtu}
			}
			markNarrow(entries)
			for id, want := range test.want {
				await.Same(t, fmt.Sprintf("flags of the interface of %d bytes", test.mtus[id]), want, entries[uint32(id)].Flags)
			}
		})
	}
}
