// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/nexthop"
	"replypath/loader/ways"
	"replypath/test/harness"
	"replypath/test/topology"
)

// routes returns what the programs know of the routes by an interface's gateways.
func (b *bed) routes(index int) map[bpf.DatapathRouteKey]uint32 {
	b.Helper()
	found := make(map[bpf.DatapathRouteKey]uint32)
	var (
		key bpf.DatapathRouteKey
		id  uint32
	)
	entries := b.maps().GatewayRoutes.Iterate()
	for entries.Next(&key, &id) {
		if key.Ifindex == uint32(index) {
			found[key] = id
		}
	}
	harness.Must(b.T, entries.Err())
	return found
}

// TestGatewayRoutes: routes to somewhere else come, change and go while the daemon runs; where there are too many,
// that is said, and none is kept.
func TestGatewayRoutes(t *testing.T) {
	const v4, v6 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4), uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6)
	const warning = "too many routes lead by gateway 10.4.0.1"
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	id, index := b.idsOf("eth1")[0], s.B.Eth1.Index
	await := func(what string, flags uint8, networks ...string) {
		t.Helper()
		eventually(t, what, func() bool {
			ids := make(map[topology.Family]uint32) // of the gateways that eth1 has or had
			for _, r := range b.journal().Gateways {
				for _, f := range s.Families() {
					if r.Address == s.B.Eth1.Gateway(f).String() {
						ids[f] = uint32(r.ID)
					}
				}
			}
			want := make(map[bpf.DatapathRouteKey]uint32)
			for _, text := range networks {
				network := netip.MustParsePrefix(text)
				want[ways.RouteKey(index, network)] = ids[topology.FamilyOf(network.Addr())]
			}
			return cmp.Equal(b.routes(index), want) && b.entry(id).Flags&(v4|v6) == flags
		})
	}
	await("nothing is routed", 0)
	b.ip("route add 10.50.0.0/16 via 10.4.0.1 table 7\nroute add 2001:db8:50::/48 via 2001:db8:4::1\n")
	await("routes elsewhere", v4|v6, "10.50.0.0/16", "2001:db8:50::/48")
	b.ip("route add 10.60.0.0/16 via 10.4.0.1\nroute del 2001:db8:50::/48\n")
	await("others", v4, "10.50.0.0/16", "10.60.0.0/16")
	b.ip("route add default via 10.4.0.1 table 7\n")
	await("a default route", 0)
	b.ip("route del default table 7\n")
	await("no more", v4, "10.50.0.0/16", "10.60.0.0/16")

	var add, del strings.Builder
	for i := range nexthop.MostNetworks {
		fmt.Fprintf(&add, "route add 10.%d.%d.0/24 via 10.4.0.1 table 8\n", 100+i>>8, i&255)
		fmt.Fprintf(&del, "route del 10.%d.%d.0/24 table 8\n", 100+i>>8, i&255)
	}
	b.ip(add.String())
	eventually(t, "too many are told of", func() bool { return b.log.count(warning) == 1 })
	if got := b.routes(index); len(got) != 1 || got[ways.RouteKey(index, netip.MustParsePrefix("0.0.0.0/0"))] != 0 || b.entry(id).Flags&v4 == 0 {
		t.Errorf("%d routes: %v", len(got), got)
	}
	b.ip(del.String())
	await("a few again", v4, "10.50.0.0/16", "10.60.0.0/16")
}
