// SPDX-License-Identifier: Apache-2.0

package ways

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/gateways"
	"replypath/loader/interfaces"
	"replypath/loader/nexthop"
	"replypath/test/await"
)

// known makes gateways of interface 3; the ids count from 1.
func known(list ...nexthop.Gateway) (all []*gateways.View) {
	for i, g := range list {
		g.Interface = 3
		all = append(all, &gateways.View{Gateway: g, ID: uint16(i + 1), ReplyMAC: g.MAC})
	}
	return all
}

func TestInterfaceEntryCountsItsGateways(t *testing.T) {
	v4 := func(a string) nexthop.Gateway { return nexthop.Gateway{Address: netip.MustParseAddr(a), IPv4: true} }
	both := nexthop.Gateway{Address: netip.MustParseAddr("2001:db8::1"), IPv4: true, IPv6: true}
	v6 := nexthop.Gateway{Address: netip.MustParseAddr("fe80::1"), IPv6: true}
	for _, test := range []struct {
		name           string
		gateways       []*gateways.View
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
			s := &interfaces.Managed{Interface: discover.Interface{Index: 3, Settings: config.Interface{NextHop: config.NextHopAuto}}}
			e := interfaceEntry(s, test.gateways)
			if e.Gateways4 != test.count4 || e.Gateways6 != test.count6 || e.Gateway4 != test.only4 || e.Gateway6 != test.only6 {
				t.Errorf("entry %+v", e)
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
	key := func(family uint8) bpf.DatapathPrefixKey {
		return datapath.MACKey(bpf.DatapathPrefixKindPREFIX_GATEWAY, 3, mac, family)
	}
	want := map[bpf.DatapathPrefixKey]uint32{key(4): 2, key(6): 3}
	await.Same(t, "(-want +got)", want, got)
}

// TestRouteEntries: what the programs are told of the gateways' routes, and whether they have to ask.
func TestRouteEntries(t *testing.T) {
	const v4, v6 = bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4, bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6
	const auto, only, last = config.NextHopAuto, config.NextHopGateway, config.NextHopLastHop
	leads := func(to ...string) nexthop.Reach { return nexthop.Reach{Networks: prefixes(to...)} }
	all, many := nexthop.Reach{Everything: true}, nexthop.Reach{Many: true}
	elsewhere, elsewhere6 := leads("10.50.0.0/16", "10.60.0.0/16"), leads("2001:db8:50::/48")
	by4 := func(id uint16, r nexthop.Reach) *gateways.View {
		return &gateways.View{ID: id, Gateway: nexthop.Gateway{IPv4: true, Reach4: r}}
	}
	by6 := func(id uint16, r nexthop.Reach) *gateways.View {
		return &gateways.View{ID: id, Gateway: nexthop.Gateway{IPv6: true, Reach6: r}}
	}
	for _, test := range []struct {
		name     string
		mode     config.NextHop
		gateways []*gateways.View
		flags    bpf.DatapathInterfaceFlags
		want     map[string]uint32
		unkept   int
	}{
		{"none", auto, nil, 0, nil, 0},
		{"a default route", auto, []*gateways.View{by4(1, all)}, 0, nil, 0},
		{"routes elsewhere", auto, []*gateways.View{by4(1, elsewhere)}, v4, map[string]uint32{"10.50.0.0/16": 1, "10.60.0.0/16": 1}, 0},
		{"of IPv6", auto, []*gateways.View{by4(1, all), by6(2, elsewhere6)}, v6, map[string]uint32{"2001:db8:50::/48": 2}, 0},
		{"by two", auto, []*gateways.View{by4(1, elsewhere), by4(2, leads("10.50.0.0/16", "10.70.0.0/16"))}, v4,
			map[string]uint32{"10.50.0.0/16": 0, "10.60.0.0/16": 1, "10.70.0.0/16": 2}, 0},
		{"a default route by another", auto, []*gateways.View{by4(1, elsewhere), by4(2, all)}, 0, nil, 0},
		{"too many", auto, []*gateways.View{by4(1, many), by4(2, elsewhere)}, v4,
			map[string]uint32{"0.0.0.0/0": 0, "10.50.0.0/16": 2, "10.60.0.0/16": 2}, 1},
		{"too many of IPv6", auto, []*gateways.View{by6(1, many)}, v6, map[string]uint32{"::/0": 0}, 1},
		{"gateway, a default route", only, []*gateways.View{by4(1, all)}, 0, nil, 0},
		{"gateway, routes elsewhere", only, []*gateways.View{by4(1, elsewhere)}, v4, map[string]uint32{"10.50.0.0/16": 1, "10.60.0.0/16": 1}, 0},
		{"gateway, a default route by another", only, []*gateways.View{by4(1, elsewhere), by4(2, all)}, v4,
			map[string]uint32{"10.50.0.0/16": 1, "10.60.0.0/16": 1, "0.0.0.0/0": 2}, 0},
		{"gateway, two of everything", only, []*gateways.View{by4(1, all), by4(2, all)}, v4, map[string]uint32{"0.0.0.0/0": 0}, 0},
		{"last hop", last, []*gateways.View{by4(1, elsewhere)}, 0, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &interfaces.Managed{Interface: discover.Interface{Index: 3, Settings: config.Interface{NextHop: test.mode}}}
			want := make(map[bpf.DatapathPrefixKey]uint32)
			for network, id := range test.want {
				want[routeKey(3, netip.MustParsePrefix(network))] = id
			}
			got, unkept := routeEntries([]*interfaces.Managed{s}, map[int][]*gateways.View{3: test.gateways})
			if diff := cmp.Diff(want, got); diff != "" || len(unkept) != test.unkept {
				t.Errorf("%d unkept, entries (-want +got):\n%s", len(unkept), diff)
			}
			await.Same(t, "flags", uint8(test.flags), interfaceEntry(s, test.gateways).Flags&uint8(v4|v6))
		})
	}
}

// TestStrongHostGateways: whom the strong host model sends to is told by routes, whatever next_hop says, and what they
// do not tell takes a gateway of everything.
func TestStrongHostGateways(t *testing.T) {
	const v4 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4)
	mac := []byte{2, 0, 0, 0, 0, 1}
	by := func(id uint16, mac []byte, answers bool, networks ...string) *gateways.View {
		reach := nexthop.Reach{Everything: len(networks) == 0, Networks: prefixes(networks...)}
		return &gateways.View{ID: id, ReplyMAC: mac, Answers: answers, Gateway: nexthop.Gateway{IPv4: true, Reach4: reach}}
	}
	for _, test := range []struct {
		name  string
		mode  config.NextHop
		known []*gateways.View
		first uint16
		asks  bool
	}{
		{"none", config.NextHopAuto, nil, 0, false},
		{"a default route", config.NextHopAuto, []*gateways.View{by(1, mac, true)}, 1, false},
		{"metadata beside a default route", config.NextHopAuto, []*gateways.View{by(1, mac, true, "169.254.169.254/32"), by(2, nil, false)}, 2, true},
		{"one that answers", config.NextHopAuto, []*gateways.View{by(1, nil, false), by(2, mac, false), by(3, mac, true)}, 3, true},
		{"alike", config.NextHopAuto, []*gateways.View{by(4, mac, true), by(5, mac, true)}, 4, true},
		{"last hop", config.NextHopLastHop, []*gateways.View{by(1, mac, true, "10.50.0.0/16")}, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &interfaces.Managed{Interface: discover.Interface{Index: 3,
				Settings: config.Interface{NextHop: test.mode, HostModel: config.HostModelStrong}}}
			entry := interfaceEntry(s, test.known)
			if entry.FirstGateway4 != test.first || entry.FirstGateway6 != 0 || entry.Flags&v4 != 0 != test.asks {
				t.Errorf("first gateways %d and %d, flags %#x", entry.FirstGateway4, entry.FirstGateway6, entry.Flags)
			}
		})
	}
}

// TestRouteEntriesAreBounded: what does not fit beside the routes of others counts as unknown.
func TestRouteEntriesAreBounded(t *testing.T) {
	var managed []*interfaces.Managed
	known := make(map[int][]*gateways.View)
	for device := 1; device <= mostRoutes/nexthop.MostNetworks+1; device++ {
		reach := nexthop.Reach{}
		for i := range nexthop.MostNetworks {
			reach.Networks = append(reach.Networks, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
		}
		managed = append(managed, &interfaces.Managed{Interface: discover.Interface{Index: device, Settings: config.Interface{NextHop: config.NextHopAuto}}})
		known[device] = []*gateways.View{{ID: uint16(device), Gateway: nexthop.Gateway{Interface: device, IPv4: true, Reach4: reach}}}
	}
	entries, unkept := routeEntries(managed, known)
	last := managed[len(managed)-1].Index
	if len(unkept) != 1 || unkept[0].Interface != last || len(entries) != mostRoutes+1 {
		t.Errorf("%d entries, %d gateways unkept", len(entries), len(unkept))
	}
	if id, isEntered := entries[routeKey(last, everything(unix.AF_INET)[0])]; !isEntered || id != 0 {
		t.Errorf("entry of the last: %d, %v", id, isEntered)
	}
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// everywhere is a gateway that takes everything, of these sources.
func everywhere(id uint16, address string, sources ...string) *gateways.View {
	a := netip.MustParseAddr(address)
	g := nexthop.Gateway{Interface: 3, Address: a, IPv4: a.Is4(), IPv6: a.Is6(), Sources: prefixes(sources...)}
	g.Reach4.Everything, g.Reach6.Everything = g.IPv4, g.IPv6
	return &gateways.View{ID: id, ReplyMAC: []byte{2, 0, 0, 0, 0, byte(id)}, Answers: true, Gateway: g}
}

// TestSourceEntries: of several gateways that take everything, the source decides: by routes for some sources, then by
// networks.
func TestSourceEntries(t *testing.T) {
	silent := func(g *gateways.View) *gateways.View {
		g.ReplyMAC, g.Answers = nil, false
		return g
	}
	elsewhere := everywhere(3, "10.5.0.1")
	elsewhere.Reach4 = nexthop.Reach{Networks: prefixes("10.50.0.0/16")}
	for _, test := range []struct {
		name  string
		own   []netip.Prefix
		known []*gateways.View
		want  map[string]uint32
	}{
		{"two networks", prefixes("10.4.0.100/24", "10.5.0.100/24"),
			[]*gateways.View{everywhere(1, "10.4.0.1"), everywhere(2, "10.5.0.1")}, map[string]uint32{"10.4.0.100": 1, "10.5.0.100": 2}},
		{"an address without a network of its own", prefixes("10.4.0.100/24", "10.5.0.100/24", "10.5.0.7/32", "10.6.0.7/32"),
			[]*gateways.View{everywhere(1, "10.4.0.1"), everywhere(2, "10.5.0.1")},
			map[string]uint32{"10.4.0.100": 1, "10.5.0.100": 2, "10.5.0.7": 2}},
		{"the longer network", prefixes("10.4.0.100/24", "10.9.0.100/8"),
			[]*gateways.View{everywhere(1, "10.5.0.1"), everywhere(2, "10.4.0.1")}, map[string]uint32{"10.4.0.100": 2}},
		{"two gateways of one network", prefixes("10.4.0.100/24", "10.5.0.100/24"),
			[]*gateways.View{everywhere(1, "10.4.0.1"), everywhere(2, "10.4.0.2")}, nil},
		{"the one that answers, of two of its network", prefixes("10.4.0.100/24", "10.5.0.100/24"),
			[]*gateways.View{silent(everywhere(1, "10.4.0.1")), everywhere(2, "10.4.0.2"), everywhere(3, "10.5.0.1")},
			map[string]uint32{"10.4.0.100": 2, "10.5.0.100": 3}},
		{"one that is silent has no other in its place", prefixes("10.4.0.100/24", "10.5.0.100/24"),
			[]*gateways.View{silent(everywhere(1, "10.4.0.1")), everywhere(2, "10.5.0.1")}, map[string]uint32{"10.4.0.100": 1, "10.5.0.100": 2}},
		{"the only one", prefixes("10.4.0.100/24", "10.5.0.100/24"), []*gateways.View{everywhere(1, "10.4.0.1")}, nil},
		{"the only one of everything", prefixes("10.4.0.100/24", "10.5.0.100/24"), []*gateways.View{everywhere(1, "10.4.0.1"), elsewhere}, nil},
		{"routers of which nothing tells", prefixes("2001:db8:4::100/64"), []*gateways.View{everywhere(1, "fe80::1"), everywhere(2, "fe80::2")}, nil},
		{"by a route, against its network", prefixes("2001:db8:4::100/64", "2001:db8:5::100/64"),
			[]*gateways.View{everywhere(1, "2001:db8:4::1"), everywhere(2, "fe80::2", "::/0", "2001:db8:4::/64")},
			map[string]uint32{"2001:db8:4::100": 2}},
		{"one takes some sources only", prefixes("2001:db8:4::100/64", "2001:db8:5::100/64"),
			[]*gateways.View{everywhere(1, "fe80::1"), everywhere(2, "fe80::2", "2001:db8:4::/64")},
			map[string]uint32{"2001:db8:4::100": 2, "2001:db8:5::100": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := &interfaces.Managed{Interface: discover.Interface{
				Index: 3, Addresses: test.own, Settings: config.Interface{HostModel: config.HostModelStrong},
			}}
			want := make(map[bpf.DatapathPrefixKey]uint32)
			for own, id := range test.want {
				want[sourceKey(netip.MustParseAddr(own))] = id
			}
			of := map[int][]*gateways.View{3: test.known}
			await.Same(t, "entries", want, sourceEntries([]*interfaces.Managed{i}, of))
			i.Settings.HostModel = config.HostModelWeak
			if got := sourceEntries([]*interfaces.Managed{i}, of); len(got) > 0 {
				t.Errorf("by the weak host model: %v", got)
			}
		})
	}
}
