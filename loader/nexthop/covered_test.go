// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/test/await"
)

// TestCovered has routes of the managed interfaces 1 and 2, and one more.
func TestCovered(t *testing.T) {
	managed := []discover.Interface{{Index: 1}, {Index: 2}}
	v4, v6 := Covered{1, unix.AF_INET}, Covered{1, unix.AF_INET6}
	for name, test := range map[string]struct {
		route string // device and destination
		want  []Covered
	}{
		"its own network":                   {"1 10.1.0.0/24", nil},
		"the same network by another":       {"2 10.1.0.0/24", []Covered{v4, {2, unix.AF_INET}}},
		"a wider one by another":            {"7 10.0.0.0/15", []Covered{v4}},
		"a wider one by the other managed":  {"2 10.0.0.0/8", []Covered{v4}},
		"a wider one by itself":             {"1 10.0.0.0/15", nil},
		"a part of it":                      {"7 10.1.0.0/25", nil},
		"a part of it by the other managed": {"2 10.1.0.0/25", []Covered{{2, unix.AF_INET}}},
		"around what is behind its gateway": {"7 172.16.0.0/12", []Covered{v4}},
		"a default route":                   {"2 0.0.0.0/0", nil},
		"half of all":                       {"7 0.0.0.0/1", []Covered{v4, {2, unix.AF_INET}}},
		"IPv6":                              {"7 2001:db8::/47", []Covered{v6}},
		"elsewhere":                         {"2 192.0.2.0/24", nil},
		"a link's own addresses":            {"2 169.254.0.0/16", nil},
		"a link's own addresses by IPv6":    {"2 fe80::/64", nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := make(networks)
			for _, text := range []string{
				"1 10.1.0.0/24", "1 172.16.5.0/24", "1 2001:db8:1::/64", "1 169.254.0.0/16", "1 fe80::/64",
				"2 10.2.0.0/24", "2 2001:db8:2::/64", test.route,
			} {
				n.Collect(routeOf(t, text))
			}
			got := n.covered(managed)
			slices.SortFunc(got, func(a, b Covered) int { return 100*(a.Family-b.Family) + a.Interface - b.Interface })
			await.Same(t, "covered", test.want, got)
		})
	}
}

// TestCoveredByTooMany: what is not compared is not certain.
func TestCoveredByTooMany(t *testing.T) {
	for i, want := range map[int]int{mostNetworks: 0, mostNetworks + 1: 1} {
		n := make(networks)
		for at := range i {
			n.Collect(routeOf(t, fmt.Sprintf("1 10.%d.%d.0/24", at/256, at%256)))
		}
		await.Same(t, fmt.Sprintf("covered of %d routes", i), want, len(n.covered([]discover.Interface{{Index: 1}})))
	}
}

// routeOf makes a route of the main table of a device and a destination.
func routeOf(t *testing.T, text string) *dump.Route {
	t.Helper()
	r := &dump.Route{Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Family: unix.AF_INET, Hops: make([]dump.Hop, 1)}
	var dst string
	if _, err := fmt.Sscan(text, &r.Hops[0].Interface, &dst); err != nil {
		t.Fatal(err)
	}
	if r.Dst = netip.MustParsePrefix(dst); r.Dst.Addr().Is6() {
		r.Family = unix.AF_INET6
	}
	return r
}
