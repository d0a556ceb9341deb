package loader

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
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
		address, mask := datapath.PrefixWords(netip.MustParsePrefix(test.prefix))
		if got := netip.AddrFrom16(bytesOf(address)); got != netip.AddrFrom16(netip.MustParseAddr(test.address).As16()) {
			t.Errorf("%s: address %s, want %s", test.prefix, got, test.address)
		}
		if got := netip.AddrFrom16(bytesOf(mask)); got != netip.MustParseAddr(test.mask) {
			t.Errorf("%s: mask %s, want %s", test.prefix, got, test.mask)
		}
	}
	if address, mask := datapath.PrefixWords(netip.Prefix{}); address != [2]uint64{} || mask != [2]uint64{} {
		t.Errorf("no prefix: %v, %v", address, mask)
	}
}

func TestExclusionSet(t *testing.T) {
	set := exclusionSet([]config.Exclusion{
		{Peer: netip.MustParsePrefix("192.0.2.0/24")},
		{Self: netip.MustParsePrefix("2001:db8::/32"), Protocol: 17, SelfPort: 0x1234},
	})
	if set.Count != 2 || set.Rule[0].Self != [2]uint64{} || set.Rule[0].PeerMask == [2]uint64{} {
		t.Errorf("set %+v", set)
	}
	second := set.Rule[1]
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], second.SelfPort)
	if second.Protocol != 17 || port != [2]byte{0x12, 0x34} || second.PeerMask != [2]uint64{} {
		t.Errorf("second entry %+v", second)
	}
}

func TestOnLinkEntries(t *testing.T) {
	got := onLinkEntries([]discover.OnLink{
		{Interface: 3, Prefix: netip.MustParsePrefix("10.1.0.0/24")},
		{Interface: 4, Prefix: netip.MustParsePrefix("2001:db8::/64")},
	})
	want := map[bpf.DatapathOnLinkKey]uint32{
		{PrefixLength: 32 + 96 + 24, Ifindex: 3, Address: netip.MustParseAddr("10.1.0.0").As16()}: 1,
		{PrefixLength: 32 + 64, Ifindex: 4, Address: netip.MustParseAddr("2001:db8::").As16()}:    1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// known makes gateways of interface 3; the ids count from 1.
func known(list ...nexthop.Gateway) map[gatewayKey]*gateway {
	gateways := make(map[gatewayKey]*gateway)
	for i, g := range list {
		g.Interface = 3
		gateways[keyOf(&g)] = &gateway{Gateway: g, id: uint16(i + 1), mac: g.MAC}
	}
	return gateways
}

func TestInterfaceEntryCountsItsGateways(t *testing.T) {
	v4 := func(a string) nexthop.Gateway { return nexthop.Gateway{Address: netip.MustParseAddr(a), IPv4: true} }
	both := nexthop.Gateway{Address: netip.MustParseAddr("2001:db8::1"), IPv4: true, IPv6: true}
	v6 := nexthop.Gateway{Address: netip.MustParseAddr("fe80::1"), IPv6: true}
	for _, test := range []struct {
		name           string
		gateways       map[gatewayKey]*gateway
		count4, count6 uint8
		only4, only6   uint16
	}{
		{"none", nil, 0, 0, 0, 0},
		{"one of IPv4", known(v4("10.0.0.1")), 1, 0, 1, 0},
		{"two of IPv4", known(v4("10.0.0.1"), v4("10.0.0.2")), 2, 0, 0, 0},
		{"three of IPv4", known(v4("10.0.0.1"), v4("10.0.0.2"), v4("10.0.0.3")), 3, 0, 0, 0},
		{"one of both", known(both), 1, 1, 1, 1},
		{"one of IPv4 and one of both", known(v4("10.0.0.1"), both), 2, 1, 0, 2},
		{"one each", known(v4("10.0.0.1"), v6), 1, 1, 1, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &served{Interface: discover.Interface{Index: 3, Settings: config.Interface{NextHop: config.NextHopAuto}}}
			e := interfaceEntry(s, slices.Collect(maps.Values(test.gateways)))
			if e.Gateways4 != test.count4 || e.Gateways6 != test.count6 || e.Gateway4 != test.only4 || e.Gateway6 != test.only6 {
				t.Errorf("entry %+v", e)
			}
		})
	}
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
				if got := entries[uint32(id)].Flags; got != want {
					t.Errorf("flags of the interface of %d bytes: %#x, want %#x", test.mtus[id], got, want)
				}
			}
		})
	}
}

// Two addresses of one router are one gateway to a frame.
func TestGatewayMACs(t *testing.T) {
	mac := []byte{2, 0, 0, 0, 0, 1}
	got := gatewayMACs(known(
		nexthop.Gateway{Address: netip.MustParseAddr("10.0.0.9"), IPv4: true},
		nexthop.Gateway{Address: netip.MustParseAddr("10.0.0.1"), IPv4: true, MAC: mac},
		nexthop.Gateway{Address: netip.MustParseAddr("10.0.0.2"), IPv4: true, IPv6: true, MAC: mac},
	))
	want := map[bpf.DatapathGatewayMac]uint32{macKey(3, mac, 4): 2, macKey(3, mac, 6): 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSettingsEntry(t *testing.T) {
	cfg := config.Default()
	cfg.Scope, cfg.Follow = config.ScopeAll, config.FollowLatest
	entry := settingsEntry(cfg)
	if entry.ScopeAll != 1 || entry.Loopback != 0 ||
		entry.Follow != uint8(bpf.DatapathFollowFOLLOW_LATEST) {
		t.Errorf("entry %+v", entry)
	}
	for protocol := range 256 {
		listed := entry.Protocols[protocol/8]&(1<<(protocol%8)) != 0
		want := protocol == 1 || protocol == 6 || protocol == 17 || protocol == 58 || protocol == 132
		if listed != want {
			t.Errorf("protocol %d: listed %v", protocol, listed)
		}
	}
}
