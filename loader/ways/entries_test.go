// SPDX-License-Identifier: Apache-2.0

package ways

import (
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/loader/config"
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
	want := map[bpf.DatapathGatewayMac]uint32{macKey(3, mac, 4): 2, macKey(3, mac, 6): 3}
	await.Same(t, "(-want +got)", want, got)
}
