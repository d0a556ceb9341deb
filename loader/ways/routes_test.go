// SPDX-License-Identifier: Apache-2.0

package ways

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/gateways"
	"replypath/loader/interfaces"
	"replypath/loader/nexthop"
)

// TestRouteEntries: what the programs are told of the gateways' routes, and whether they have to ask.
func TestRouteEntries(t *testing.T) {
	const v4, v6 = bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4, bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6
	const auto, only, last = config.NextHopAuto, config.NextHopGateway, config.NextHopLastHop
	leads := func(to ...string) (r nexthop.Reach) {
		for _, network := range to {
			r.Networks = append(r.Networks, netip.MustParsePrefix(network))
		}
		return r
	}
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
			want := make(map[bpf.DatapathRouteKey]uint32)
			for network, id := range test.want {
				want[RouteKey(3, netip.MustParsePrefix(network))] = id
			}
			got, unkept := routeEntries([]*interfaces.Managed{s}, map[int][]*gateways.View{3: test.gateways})
			if diff := cmp.Diff(want, got); diff != "" || len(unkept) != test.unkept {
				t.Errorf("%d unkept, entries (-want +got):\n%s", len(unkept), diff)
			}
			if flags := interfaceEntry(s, test.gateways).Flags & uint8(v4|v6); flags != uint8(test.flags) {
				t.Errorf("flags %#x", flags)
			}
		})
	}
}

// TestStrongHostGateways: whom the strong host model sends to is told by routes, whatever next_hop says, and what they
// do not tell takes a gateway of everything.
func TestStrongHostGateways(t *testing.T) {
	const v4 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4)
	mac := []byte{2, 0, 0, 0, 0, 1}
	by := func(id uint16, mac []byte, answers bool, networks ...string) *gateways.View {
		reach := nexthop.Reach{Everything: len(networks) == 0}
		for _, network := range networks {
			reach.Networks = append(reach.Networks, netip.MustParsePrefix(network))
		}
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
	if id, isEntered := entries[RouteKey(last, everything(unix.AF_INET)[0])]; !isEntered || id != 0 {
		t.Errorf("entry of the last: %d, %v", id, isEntered)
	}
}
