// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
	"replypath/test/await"
)

// internet is a full table by many next hops of an exchange, in each family, beside a router that leads to two networks.
func internet() (routes []*dump.Route, few netip.Addr) {
	few = address("10.0.9.9")
	for _, family := range dump.Families {
		route := func(network netip.Prefix, gateway netip.Addr) {
			routes = append(routes, &dump.Route{Family: family, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: network,
				Hops: []dump.Hop{{Interface: 7, Gateway: gateway}}})
		}
		for n := range 300 * 1000 {
			network := netip.AddrFrom4([4]byte{byte(20 + n>>16), byte(n >> 8), byte(n), 0})
			bits := 24
			if family == unix.AF_INET6 {
				network, bits = netip.AddrFrom16([16]byte{0x20, 1, byte(n >> 16), byte(n >> 8), byte(n)}), 40
			}
			route(netip.PrefixFrom(network, bits), netip.AddrFrom4([4]byte{10, 0, byte(n % 300 >> 8), byte(n % 300)}))
			if n%(150*1000) == 0 {
				route(netip.PrefixFrom(network, bits+4).Masked(), few)
			}
		}
	}
	return routes, few
}

// TestReachesAreBounded: a full table by hundreds of next hops leaves no more networks than the programs are told of, and nothing
// that depends on chance. What few routes lead to is kept.
func TestReachesAreBounded(t *testing.T) {
	routes, few := internet()
	read := func() *knowledge {
		all := newKnowledge()
		for _, family := range dump.Families {
			of := newKnowledge()
			of.Begin(family)
			for _, r := range routes {
				if r.Family == family {
					of.Collect(r)
				}
			}
			all.take(family, of)
		}
		return all
	}
	k := read()
	kept := 0
	for _, f := range k.reaches.by {
		kept += len(f.networks)
	}
	if kept > mostInAll || kept < mostInAll/2 {
		t.Errorf("%d networks are kept, %d at most", kept, mostInAll)
	}
	await.Same(t, "count of what is kept", kept, k.reaches.kept)
	for _, family := range dump.Families {
		if f := k.reaches.by[road{7, few, family, unix.RT_TABLE_MAIN}]; f.many || len(f.networks) != 2 {
			t.Errorf("of the router that leads to two networks: %+v", f)
		}
		k.Begin(family)
	}
	await.Same(t, "count when all is forgotten", 0, k.reaches.kept)
	if !read().equal(read()) {
		t.Error("the same routes tell something else the second time")
	}
}
