// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

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
