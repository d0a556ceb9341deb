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

// announcing has a gateway announce prefixes.
func announcing(g *gateways.View, texts ...string) *gateways.View {
	g.Announced = prefixes(texts...)
	return g
}

// TestSourceEntries: of several gateways that take everything, the source decides: by routes for some sources, by what
// was announced, by networks.
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
		{"announced", prefixes("2001:db8:4::100/64", "2001:db8:5::100/128", "2001:db8:6::100/64"),
			[]*gateways.View{announcing(everywhere(1, "fe80::1"), "2001:db8:4::/64"), announcing(everywhere(2, "fe80::2"), "2001:db8:5::/64", "2001:db8:9::/64")},
			map[string]uint32{"2001:db8:4::100": 1, "2001:db8:5::100": 2}},
		{"announced by both", prefixes("2001:db8:4::100/64"),
			[]*gateways.View{announcing(everywhere(1, "fe80::1"), "2001:db8:4::/64"), announcing(everywhere(2, "fe80::2"), "2001:db8:4::/64")}, nil},
		{"announced, against its network", prefixes("2001:db8:4::100/64"),
			[]*gateways.View{everywhere(1, "2001:db8:4::1"), announcing(everywhere(2, "fe80::2"), "2001:db8:4::/64")},
			map[string]uint32{"2001:db8:4::100": 2}},
		{"by a route, against what is announced", prefixes("2001:db8:4::100/64", "2001:db8:5::100/64"),
			[]*gateways.View{announcing(everywhere(1, "fe80::1"), "2001:db8:4::/64"), everywhere(2, "fe80::2", "::/0", "2001:db8:4::/64")},
			map[string]uint32{"2001:db8:4::100": 2}},
		{"one takes some sources only", prefixes("2001:db8:4::100/64", "2001:db8:5::100/64"),
			[]*gateways.View{everywhere(1, "fe80::1"), everywhere(2, "fe80::2", "2001:db8:4::/64")},
			map[string]uint32{"2001:db8:4::100": 2, "2001:db8:5::100": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := &interfaces.Managed{Interface: discover.Interface{
				Index: 3, Addresses: test.own, Settings: config.Interface{HostModel: config.HostModelStrong},
			}}
			want := make(map[bpf.DatapathAddress]uint32)
			for own, id := range test.want {
				want[bpf.DatapathAddress{Bytes: netip.MustParseAddr(own).As16()}] = id
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
