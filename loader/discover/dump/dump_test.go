// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/traffic"
)

// TestInterruptedRoutes: of a dump that was interrupted nothing is left with a collector, of the other family's
// everything.
func TestInterruptedRoutes(t *testing.T) {
	routeTo := func(family, table int) *Route { return &Route{Family: family, Table: table} }
	tries := map[int]int{}
	list := func(family int) func(each func(*Route)) error {
		return func(each func(*Route)) error {
			each(routeTo(family, 1))
			if tries[family]++; tries[family] == 1 {
				each(routeTo(family, 2)) // which is gone when it is asked again
				return netlink.ErrDumpInterrupted
			}
			each(routeTo(family, 3))
			return nil
		}
	}
	values := func() *Values[[2]int] {
		return NewValues(func(r *Route, add func([2]int)) { add([2]int{r.Family, r.Table}) })
	}
	collectors := []Collector{values(), values()}
	for _, family := range Families {
		await.Must(t, readFamily(list(family), family, collectors))
	}
	want := [][2]int{{unix.AF_INET, 1}, {unix.AF_INET, 3}, {unix.AF_INET6, 1}, {unix.AF_INET6, 3}}
	for _, c := range collectors {
		got := c.(*Values[[2]int]).List()
		slices.SortFunc(got, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestRoutes(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name eth1
link set eth0 up
link set eth1 up
addr add 10.1.0.100/24 dev eth0
addr add 2001:db8:1::100/64 dev eth0
route add default via 10.1.0.1
route add 10.9.0.0/16 via inet6 2001:db8:1::1 dev eth0 table 1000 mtu 1400 advmss 1300
route add 10.8.0.0/16 nexthop via 10.1.0.2 nexthop dev eth1
route add 2001:db8:8::/48 table 7 nexthop via 2001:db8:1::2 dev eth0 nexthop via 2001:db8:1::3 dev eth0
route add unreachable 10.7.0.0/16
route add 10.5.0.0/16 dev eth1 initcwnd 20
route add local 10.6.0.0/16 dev lo
route add local 2001:db8:6::/48 dev lo
`)

	type seen struct {
		family, kind, table int
		dst                 netip.Prefix
		hop                 Hop
		limits              Limits
	}
	var got []seen
	await.Must(t, h.Do(func() (err error) {
		got, err = Routes(func(r *Route, add func(seen)) {
			for _, hop := range r.Hops {
				add(seen{r.Family, r.Type, r.Table, r.Dst, hop, r.Limits})
			}
		})
		return err
	}))
	index := func(name string) int {
		link := await.Must1[netlink.Link](t)(h.Netlink().LinkByName(name))
		return link.Attrs().Index
	}
	lo, eth0, eth1 := index("lo"), index("eth0"), index("eth1")
	v4, v6 := unix.AF_INET, unix.AF_INET6
	for _, want := range []seen{
		{v4, unix.RTN_UNICAST, unix.RT_TABLE_MAIN, netip.MustParsePrefix("10.5.0.0/16"), Hop{Interface: eth1}, Limits{Others: true}},
		{v4, unix.RTN_UNICAST, unix.RT_TABLE_MAIN, netip.MustParsePrefix("10.1.0.0/24"), Hop{Interface: eth0}, Limits{}},
		{v4, unix.RTN_UNICAST, unix.RT_TABLE_MAIN, netip.MustParsePrefix("0.0.0.0/0"), Hop{Interface: eth0, Gateway: netip.MustParseAddr("10.1.0.1")}, Limits{}},
		{v4, unix.RTN_UNICAST, 1000, netip.MustParsePrefix("10.9.0.0/16"), Hop{Interface: eth0, Gateway: netip.MustParseAddr("2001:db8:1::1")}, Limits{MTU: 1400, MSS: 1300}},
		{v4, unix.RTN_UNICAST, unix.RT_TABLE_MAIN, netip.MustParsePrefix("10.8.0.0/16"), Hop{eth0, netip.MustParseAddr("10.1.0.2"), 1}, Limits{}},
		{v4, unix.RTN_UNICAST, unix.RT_TABLE_MAIN, netip.MustParsePrefix("10.8.0.0/16"), Hop{Interface: eth1, Weight: 1}, Limits{}},
		{v4, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netip.MustParsePrefix("10.6.0.0/16"), Hop{Interface: lo}, Limits{}},
		{v4, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netip.MustParsePrefix("10.1.0.100/32"), Hop{Interface: eth0}, Limits{}},
		{v6, unix.RTN_UNICAST, 7, netip.MustParsePrefix("2001:db8:8::/48"), Hop{eth0, netip.MustParseAddr("2001:db8:1::2"), 1}, Limits{}},
		{v6, unix.RTN_UNICAST, 7, netip.MustParsePrefix("2001:db8:8::/48"), Hop{eth0, netip.MustParseAddr("2001:db8:1::3"), 1}, Limits{}},
		{v6, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netip.MustParsePrefix("2001:db8:6::/48"), Hop{Interface: lo}, Limits{}},
	} {
		if !slices.Contains(got, want) {
			t.Errorf("missing: %+v", want)
		}
	}
	unique := map[seen]bool{}
	for _, s := range got {
		if unique[s] {
			t.Errorf("twice: %+v", s)
		}
		unique[s] = true
		if s.dst == netip.MustParsePrefix("10.7.0.0/16") {
			t.Errorf("an unreachable route has a hop: %+v", s)
		}
	}
}

// routeMessage is one about a route to a network, as change has it.
func routeMessage(network string, change func(*nl.RtMsg, map[uint16][]byte)) []byte {
	to := netip.MustParsePrefix(network)
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Dst_len: uint8(to.Bits()), Table: unix.RT_TABLE_MAIN,
		Protocol: unix.RTPROT_BGP, Type: unix.RTN_UNICAST}}
	attributes := map[uint16][]byte{
		unix.RTA_TABLE: nl.Uint32Attr(unix.RT_TABLE_MAIN), unix.RTA_DST: to.Addr().AsSlice(), unix.RTA_PRIORITY: nl.Uint32Attr(20),
		unix.RTA_OIF: nl.Uint32Attr(2), unix.RTA_GATEWAY: {10, 0, 0, 1},
	}
	if change != nil {
		change(header, attributes)
	}
	message := header.Serialize()
	for _, kind := range []uint16{unix.RTA_TABLE, unix.RTA_DST, unix.RTA_PRIORITY, unix.RTA_GATEWAY, unix.RTA_OIF} {
		if value := attributes[kind]; value != nil {
			message = append(message, nl.NewRtAttr(int(kind), value).Serialize()...)
		}
	}
	return message
}

// TestAnotherRoute: whatever two routes differ in, the second is read as if there were no first; and none is parsed
// whose network alone is another.
func TestAnotherRoute(t *testing.T) {
	type attributes = map[uint16][]byte
	plain := func(network string) []byte { return routeMessage(network, nil) }
	messages := map[string][]byte{
		"route":      plain("10.1.0.0/16"),
		"network":    plain("10.2.0.0/16"),
		"length":     plain("10.1.0.0/24"),
		"type":       routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Type = unix.RTN_BLACKHOLE }),
		"protocol":   routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Protocol = 114 }),
		"tos":        routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Tos = 4 }),
		"source":     routeMessage("10.1.0.0/16", func(h *nl.RtMsg, _ attributes) { h.Src_len = 8 }),
		"table":      routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_TABLE] = nl.Uint32Attr(7) }),
		"metric":     routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_PRIORITY] = nl.Uint32Attr(21) }),
		"device":     routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_OIF] = nl.Uint32Attr(3) }),
		"gateway":    routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_GATEWAY] = []byte{10, 0, 0, 2} }),
		"on-link":    routeMessage("10.1.0.0/16", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_GATEWAY] = nil }),
		"no network": routeMessage("0.0.0.0/0", func(_ *nl.RtMsg, a attributes) { a[unix.RTA_DST] = nil }),
	}
	differInNetwork := []string{"route", "network", "length"}
	for first, message := range messages {
		for second, other := range messages {
			var last lastRoute
			route, err := ParseRoute(message)
			await.Must(t, err)
			last.keep(route, message)
			want, _ := ParseRoute(other)
			got, is := last.another(other)
			want.Another = is
			if wanted := slices.Contains(differInNetwork, first) && slices.Contains(differInNetwork, second); wanted && !is {
				t.Errorf("%s after %s is parsed", second, first)
			}
			if is {
				await.Same(t, second+" after "+first, &want, got)
			}
		}
	}
}

// TestRulesThatChange has one rule go and another come, again and again, while rules are read: each keeps its action.
func TestRulesThatChange(t *testing.T) {
	h := traffic.NewHost(t)
	leads, refuses := netlink.NewRule(), netlink.NewRule()
	leads.Priority, leads.Table = 100, 100
	refuses.Priority, refuses.Type = leads.Priority, unix.RTN_PROHIBIT
	changes := h.Netlink()
	await.Must(t, changes.RuleAdd(leads))
	done, changed := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for old, next := leads, refuses; err == nil; old, next = next, old {
			select {
			case <-done:
				changed <- nil
				return
			default:
				err = errors.Join(changes.RuleDel(old), changes.RuleAdd(next))
			}
		}
		changed <- err
	}()
	await.Must(t, h.Do(func() error {
		handle, err := Open()
		if err != nil {
			return err
		}
		defer handle.Close()
		read := 0
		for range 10_000 {
			list, err := rules(handle, unix.AF_INET)
			if errors.Is(err, netlink.ErrDumpInterrupted) {
				continue
			}
			if err != nil {
				return err
			}
			read++
			for _, r := range list {
				if (r.Action == nl.FR_ACT_TO_TBL) != (r.Table > 0) {
					return fmt.Errorf("a rule with table %d has action %d", r.Table, r.Action)
				}
			}
		}
		t.Logf("%d of 10000 readings were not interrupted", read)
		return nil
	}))
	close(done)
	await.Must(t, <-changed)
}
