// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

var equalPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// TestReach: whom gateways serve, by routes of any table and kind, by one that a router has advertised (RFC 4191) among
// them, and whether they are of the main table.
func TestReach(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, `
route add 10.9.0.0/16 via 10.1.0.1 table 7
route add 10.9.0.0/16 via 10.1.0.1
route add 10.8.0.0/16 via 10.1.0.1
route add 169.254.169.254 via 10.1.0.2
route add 10.7.0.7 via 10.1.0.3
route add default via 10.1.0.3 table 7
route add 10.12.0.0/16 nexthop via 10.1.0.4 nexthop via 10.1.0.5
route add 10.14.0.0/16 via inet6 fe80::1 dev eth0
route add unreachable 10.17.0.0/16
route add 2001:db8:50::/48 via fe80::1 dev eth0 proto ra
route add 2001:db8:51::/48 via fe80::1 dev eth0 table 7
route add default via fe80::2 dev eth0 table 7
rule add prio 40000 table 7
`)
	ip(t, p.server, "-6 rule add prio 40000 table 7")
	for _, own := range []string{"route add default via 10.1.0.1", "-6 route add default via fe80::1"} {
		ip(t, p.server, fmt.Sprintf("%s dev eth0 proto %d metric %d", own, discover.OwnProtocol, uint32(discover.BoundMetric)))
	}
	type reach struct {
		main   bool
		v4, v6 Reach
	}
	want := map[string]reach{
		"10.1.0.1": {main: true, v4: leads("10.8.0.0/16", "10.9.0.0/16")},
		"10.1.0.2": {main: true, v4: leads("169.254.169.254/32")},
		"10.1.0.3": {main: true, v4: Reach{Everything: true}},
		"10.1.0.4": {main: true, v4: leads("10.12.0.0/16")},
		"10.1.0.5": {main: true, v4: leads("10.12.0.0/16")},
		"fe80::1":  {main: true, v4: leads("10.14.0.0/16"), v6: leads("2001:db8:50::/48", "2001:db8:51::/48")},
		"fe80::2":  {v6: Reach{Everything: true}},
	}
	got := func(interfaces ...config.Interface) map[string]reach {
		of := make(map[string]reach)
		for _, g := range p.gateways(t, interfaces...) {
			of[g.Address.String()] = reach{g.Main, g.Reach4, g.Reach6}
		}
		return of
	}
	compare := func(what string, want, got map[string]reach) {
		if diff := cmp.Diff(want, got, equalPrefix, cmp.AllowUnexported(reach{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	compare("found", want, got())
	// A configured one takes everything, whatever the routes say of it; of the other family they are asked.
	compare("configured", map[string]reach{
		"10.1.0.1": {v4: Reach{Everything: true}},
		"fe80::1":  {main: true, v6: leads("2001:db8:50::/48", "2001:db8:51::/48")},
		"fe80::2":  {v6: Reach{Everything: true}},
	}, got(config.Interface{Name: "eth0", Gateways: []netip.Addr{address("10.1.0.1")}}))
}

func leads(to ...string) (r Reach) {
	for _, network := range to {
		r.Networks = append(r.Networks, netip.MustParsePrefix(network))
	}
	return r
}

// TestReachIsBounded: of a gateway by which more routes lead than are kept nothing is known, but for a default route;
// what was read before is forgotten with its family.
func TestReachIsBounded(t *testing.T) {
	r := make(reaches)
	by := func(family int) *tables {
		return tablesOf(&discover.Interface{Index: 3}, family, selections(nil), nil)
	}
	route := func(family int, to netip.Prefix, gateway string) *dump.Route {
		return &dump.Route{Family: family, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: to, Hops: []dump.Hop{{Interface: 3, Gateway: address(gateway)}}}
	}
	read := func(networks int) {
		r.Begin(unix.AF_INET)
		for i := range networks {
			host := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			r.Collect(route(unix.AF_INET, netip.PrefixFrom(host, 32), "10.1.0.1"))
			r.Collect(route(unix.AF_INET, netip.PrefixFrom(host, 32), "10.1.0.2"))
		}
		r.Collect(route(unix.AF_INET, netip.MustParsePrefix("0.0.0.0/0"), "10.1.0.2"))
	}
	r.Collect(route(unix.AF_INET6, netip.MustParsePrefix("2001:db8::/32"), "fe80::1"))
	for _, test := range []struct {
		networks int
		many     bool
	}{{MostNetworks, false}, {2 * MostNetworks, true}, {MostNetworks, false}} {
		read(test.networks)
		of := r.of(address("10.1.0.1"), unix.AF_INET, by(unix.AF_INET))
		if of.Many != test.many || of.Everything || test.many != (len(of.Networks) == 0) || len(r[road{3, address("10.1.0.1"), unix.AF_INET, unix.RT_TABLE_MAIN}].networks) > MostNetworks {
			t.Errorf("%d networks: many %v, everything %v, %d kept", test.networks, of.Many, of.Everything, len(of.Networks))
		}
		if of := r.of(address("10.1.0.2"), unix.AF_INET, by(unix.AF_INET)); !of.Everything || of.Many || of.Networks != nil {
			t.Errorf("%d networks and a default route: %+v", test.networks, of)
		}
	}
	if of := r.of(address("fe80::1"), unix.AF_INET6, by(unix.AF_INET6)); len(of.Networks) != 1 {
		t.Errorf("of IPv6: %s", strings.Join(strings.Fields(fmt.Sprint(of)), " "))
	}
}
