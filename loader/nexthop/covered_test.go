package nexthop

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

func TestCovered(t *testing.T) {
	managed := []discover.Interface{
		{Index: 1, Addresses: prefixes("10.1.0.100/24", "2001:db8:1::100/64", "169.254.7.7/16")},
		{Index: 2, Addresses: prefixes("10.2.0.100/24", "2001:db8:2::100/64")},
	}
	v4, v6 := Covered{1, unix.AF_INET}, Covered{1, unix.AF_INET6}
	for name, test := range map[string]struct {
		route string // device and destination
		want  []Covered
	}{
		"its own network":                  {"1 10.1.0.0/24", nil},
		"the same network by another":      {"2 10.1.0.0/24", []Covered{v4}},
		"a wider one by another":           {"7 10.0.0.0/15", []Covered{v4}},
		"a wider one by the other managed": {"2 10.0.0.0/8", []Covered{v4}},
		"a wider one by itself":            {"1 10.0.0.0/15", nil},
		"a part of it":                     {"2 10.1.0.0/25", nil},
		"a default route":                  {"2 0.0.0.0/0", nil},
		"half of all":                      {"7 0.0.0.0/1", []Covered{v4, {2, unix.AF_INET}}},
		"IPv6":                             {"2 2001:db8::/32", []Covered{v6}},
		"elsewhere":                        {"2 192.0.2.0/24", nil},
		"a link's own addresses":           {"2 169.254.0.0/16", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := dump.Route{Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Family: unix.AF_INET, Hops: make([]dump.Hop, 1)}
			var dst string
			if _, err := fmt.Sscan(test.route, &r.Hops[0].Interface, &dst); err != nil {
				t.Fatal(err)
			}
			if r.Dst = netip.MustParsePrefix(dst); r.Dst.Addr().Is6() {
				r.Family = unix.AF_INET6
			}
			var got []Covered
			collectCovered(managed, r, func(c Covered) { got = append(got, c) })
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// TestCoveredByTheKernel reads it from routes of the kernel: another table's, and those of its own,
// cover nothing.
func TestCoveredByTheKernel(t *testing.T) {
	p := newPair(t)
	p.addEth1(t)
	covered := func() []Covered {
		found, err := Find(p.server.Netlink(), p.manage(t))
		if err != nil {
			t.Fatal(err)
		}
		return found.Covered
	}
	ip(t, p.server, "route add 10.0.0.0/8 via 10.2.0.1 table 100\nroute add 10.0.0.0/8 via 10.2.0.1 proto 114\n")
	if found := covered(); len(found) > 0 {
		t.Errorf("covered: %v", found)
	}
	ip(t, p.server, "route add 10.0.0.0/9 via 10.2.0.1\n")
	if diff := cmp.Diff([]Covered{{p.eth0.Index, unix.AF_INET}}, covered()); diff != "" {
		t.Errorf("eth0 by IPv4 (-want +got):\n%s", diff)
	}
}
