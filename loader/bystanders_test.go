// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/test/harness"
	"replypath/test/topology"
)

// TestBystanders: interfaces of containers come and go, and the list of those that are left out follows. One that gets an
// address, or a name that is not ignored, is managed.
func TestBystanders(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	for n := range 20 {
		b.ip(fmt.Sprintf("link add veth%d up type veth peer name c%d\nlink set c%d up\n", n, n, n))
	}
	b.ip("link add cali6 type veth peer name far6\nlink del veth3\naddr add 10.78.0.1/24 dev c5\naddr add 10.79.0.1/24 dev cali6\n")
	b.awaitAttached("c5")
	b.ip("link set cali6 down\nlink set cali6 name lan6\n")
	b.awaitAttached("lan6")
	isLeft := func(name string) bool {
		return slices.ContainsFunc(b.journal().Unmanaged, func(u pins.UnmanagedRecord) bool { return u.Name == name })
	}
	eventually(t, "the list of those left out", func() bool { return isLeft("veth19") && !isLeft("veth3") && !isLeft("c3") })
}

// TestEventsOfBystanders: what concerns interfaces alone that cannot become managed waits.
func TestEventsOfBystanders(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.ip("link add veth7 type veth peer name c7\n")
	r := b.start(nil)
	veth7 := harness.Must1[netlink.Link](t)(s.B.Netlink().LinkByName("veth7")).Attrs().Index
	link := func(index int, name, kind string) nexthop.Event {
		return nexthop.Event{Kind: nexthop.KindLink, Interface: index, Link: dump.Link{Index: index, Name: name, Kind: kind}}
	}
	routeBy := func(index int) nexthop.Event {
		return nexthop.Event{Kind: nexthop.KindRoute, Route: &dump.Route{
			Family: unix.AF_INET, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: netip.MustParsePrefix("10.200.0.7/32"),
			Hops: []dump.Hop{{Interface: index}},
		}}
	}
	for what, test := range map[string]struct {
		event      nexthop.Event
		now, later bool
	}{
		"one comes":                  {event: link(9999, "c9", "veth"), later: true},
		"one changes":                {event: link(veth7, "veth7", "veth"), later: true},
		"a bridge comes":             {event: link(9998, "br9", "bridge"), now: true},
		"a managed one changes":      {event: link(s.B.Eth1.Index, "eth1", "veth"), now: true},
		"an address of its link":     {event: nexthop.Event{Kind: nexthop.KindAddress, Interface: veth7, OfLink: true}, later: true},
		"another address":            {event: nexthop.Event{Kind: nexthop.KindAddress, Interface: veth7, Global: true}, now: true},
		"an address of a managed":    {event: nexthop.Event{Kind: nexthop.KindAddress, Interface: s.B.Eth1.Index, OfLink: true}, now: true},
		"its rp_filter":              {event: nexthop.Event{Kind: nexthop.KindRPFilter, Interface: veth7}, later: true},
		"rp_filter of all":           {event: nexthop.Event{Kind: nexthop.KindRPFilter}, now: true},
		"a route by it":              {event: routeBy(veth7)},
		"a route by a managed one":   {event: routeBy(s.B.Eth1.Index), now: true},
		"events are lost":            {event: nexthop.Event{Kind: nexthop.KindLost}, now: true},
		"a rule that may be for all": {event: nexthop.Event{Kind: nexthop.KindRule}, now: true},
	} {
		t.Run(what, func(t *testing.T) {
			b.locked(r, func() { harness.Must(t, b.host.Do(func() error { _, err := r.table.Read(); return err })) })
			other := &runner{core: r.core, changes: newCoalescer(), doubts: newCoalescer(), bystanders: newCoalescer()}
			b.inside(func() error { other.event(test.event, true); return nil })
			if now, later := other.changes.isNoted(), other.bystanders.isNoted(); now != test.now || later != test.later {
				t.Errorf("looked at now: %v, later: %v", now, later)
			}
		})
	}
}

// locked does something while the loader does nothing.
func (b *bed) locked(r *running, do func()) {
	b.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

// TestFailureIsTriedAgain: what a reconciliation could not do is tried again without an event.
func TestFailureIsTriedAgain(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	other := &runner{core: r.core, changes: newCoalescer(), doubts: newCoalescer(), bystanders: newCoalescer()}
	look := func() (again bool) {
		b.inside(func() error { other.look(); return nil })
		return other.changes.isNoted()
	}
	b.locked(r, func() {
		working := r.journal
		defer func() { r.journal = working }()
		broken, _, err := pins.CreateJournal(r.dir)
		harness.Must(t, err)
		harness.Must(t, broken.Close())
		if r.journal = broken; !look() {
			t.Error("a failure is the end")
		}
	})
	b.locked(r, func() {
		if look() {
			t.Error("it goes on after it has succeeded")
		}
	})
}

// TestReloadReadsRoutes: what nobody has told of the routes is found when somebody has the configuration read again.
func TestReloadReadsRoutes(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	gone := netip.MustParseAddr("10.4.0.77")
	route := dump.Route{
		Family: unix.AF_INET, Type: unix.RTN_UNICAST, Table: 7, Protocol: unix.RTPROT_BGP,
		Dst: netip.MustParsePrefix("10.50.0.0/16"), Hops: []dump.Hop{{Interface: s.B.Eth1.Index, Gateway: gone}},
	}
	b.locked(r, func() {
		r.table.Note(&nexthop.Event{Kind: nexthop.KindRoute, Route: &route}, func(int) bool { return true })
	})
	harness.Must(t, r.reload(func(c *config.Config) {}))
	for _, g := range b.status().of("eth1").Gateways {
		if g.Address == gone.String() {
			t.Errorf("a gateway whose route has gone in silence: %+v", g)
		}
	}
}
