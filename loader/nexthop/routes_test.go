// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/test/await"
)

// manyKinds has the server have a route of each kind that is told apart, and a rule more than the router.
func (p *pair) manyKinds(t *testing.T) {
	t.Helper()
	ip(t, p.server, `
route add default via 10.1.0.1
route add default via 10.1.0.2 table 7
rule add prio 40000 table 7
route add default via 10.1.0.3 dev eth0 metric 4294967294 proto 114
route add 10.0.0.0/8 via 10.1.0.1 dev eth0 metric 4294967295 proto 114 table 9
link add eth1 type veth peer name far1
link set eth1 up
link set far1 up
route add 10.0.0.0/8 dev eth1
`)
}

// TestOwnRoutes: replypath's own routes are told from others, and make no gateways.
func TestOwnRoutes(t *testing.T) {
	p := newPair(t)
	p.manyKinds(t)
	managed := p.manage(t)
	own := func(gateway string, table int, to string) OwnRoute {
		hop := Default{Interface: p.eth0.Index, Gateway: address(gateway), Family: unix.AF_INET}
		return OwnRoute{hop, table, netip.MustParsePrefix(to)}
	}
	await.Must(t, p.server.Do(func() error {
		got, err := FindOwn()
		if err != nil {
			return err
		}
		want := Routers{
			Fallback: []OwnRoute{own("10.1.0.3", unix.RT_TABLE_MAIN, "0.0.0.0/0")},
			Bound:    []OwnRoute{own("10.1.0.1", 9, "10.0.0.0/8")},
		}
		await.Same(t, "own", want, got)
		gateways, err := Gateways(p.server.Netlink(), managed)
		check(t, gateways, bare(p.eth0.Index, "10.1.0.1", 4), bare(p.eth0.Index, "10.1.0.2", 4))
		return err
	}))
}

// TestBehind: of IPv4's default routes those of another metric than the smallest are behind, which IPv6 goes over to by
// itself.
func TestBehind(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, `
route add default via 10.1.0.1 metric 100
route append default via 10.1.0.2 metric 100
route add default via 10.1.0.3 metric 200
`)
	ip(t, p.server, "-6 route add default via fe80::1 dev eth0 metric 100\nroute add default via fe80::2 dev eth0 metric 200\n")
	behind := make(map[string]bool)
	for _, d := range p.find(t).Defaults {
		behind[d.Gateway.String()] = d.Behind
	}
	want := map[string]bool{"10.1.0.1": false, "10.1.0.2": false, "10.1.0.3": true, "fe80::1": false, "fe80::2": false}
	await.Same(t, "behind the first", want, behind)
}

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
	unexported := cmp.AllowUnexported(reach{})
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
	await.Same(t, "found", want, got(), unexported)
	// A configured one takes everything, whatever the routes say of it; of the other family they are asked.
	await.Same(t, "configured", map[string]reach{
		"10.1.0.1": {v4: Reach{Everything: true}},
		"fe80::1":  {main: true, v6: leads("2001:db8:50::/48", "2001:db8:51::/48")},
		"fe80::2":  {v6: Reach{Everything: true}},
	}, got(config.Interface{Name: "eth0", Gateways: []netip.Addr{address("10.1.0.1")}}), unexported)
}

func leads(to ...string) (r Reach) {
	for _, network := range to {
		r.Networks = append(r.Networks, netip.MustParsePrefix(network))
	}
	return r
}
