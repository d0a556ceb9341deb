// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"strings"
	"testing"

	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// A lateDefault is the way of the host's default route that the kernel looks at after every default route of the main table, or
// that a default route for all sources would keep it from.
type lateDefault struct {
	name     string
	families []topology.Family
	// rule is one that the route needs, "" for none, route what is added in the place of the usual default route, several with
	// commas between them.
	rule  string
	route map[topology.Family]string
}

var lateDefaults = []lateDefault{
	{name: "of table default", families: traffic.Families[:1], route: map[topology.Family]string{topology.IPv4: "default via 10.1.0.1 table 253"}},
	{name: "of a table that is asked after main", families: traffic.Families, rule: "prio 40000 table 222", route: map[topology.Family]string{
		topology.IPv4: "default via 10.1.0.1 table 222", topology.IPv6: "default via 2001:db8:1::1 table 222"}},
	{name: "of the last metric", families: traffic.Families, route: map[topology.Family]string{
		topology.IPv4: "default via 10.1.0.1 metric 4294967295", topology.IPv6: "default via 2001:db8:1::1 metric 4294967295"}},
	{name: "for some sources only", families: traffic.Families[1:], route: map[topology.Family]string{
		topology.IPv6: "default from 2001:db8:1::/64 via 2001:db8:1::1,default from 2001:db8:2::/64 via 2001:db8:2::1"}},
}

// TestLateDefault has the host's default route at a place where the fallback route would keep it from being used: what the
// host starts goes by it all the same, from the start on and when the route gets there later, or its rule does. Once there is the
// usual default route again there is a fallback route.
func TestLateDefault(t *testing.T) {
	t.Parallel()
	quick := short.Run(t)
	for n, late := range lateDefaults {
		for k, f := range late.families {
			if quick && (n%2 == 0 || k != n%len(late.families)) {
				continue
			}
			t.Run(late.name+"/"+f.String(), func(t *testing.T) { testLateDefault(t, f, late) })
		}
	}
}

func testLateDefault(t *testing.T, f topology.Family, late lateDefault) {
	t.Parallel()
	b := newBed(t, f, anySource)
	b.moveDefault(late, "add")
	b.removeDefault()
	packet := []string{b.clientAddress().String(), "from", b.net.Server.Eth0.Address(f).String()}
	want := b.choiceOf(packet...)
	if want != "eth0" {
		t.Fatalf("without replypath the kernel chooses %q", want)
	}
	b.wantHostReaches(true, traffic.TCP, traffic.UDP)
	b.start()
	asked := 0
	reach := func() {
		t.Helper()
		if got := b.choiceOf(packet...); got != want {
			t.Errorf("the kernel chooses %q, and %q without replypath", got, want)
		}
		b.wantHostReaches(true, traffic.TCP, traffic.UDP)
		b.ask(b.conversation(traffic.TCP))
		asked++
	}
	reach()
	givesWay := b.fallbackRoutes()
	b.addDefault()
	b.moveDefault(late, "del")
	reach()
	b.moveDefault(late, "add")
	b.removeDefault()
	b.Eventually("the fallback route gives way", func() error { // until then it comes before the late one
		if routes := b.fallbackRoutes(); routes != givesWay {
			return fmt.Errorf("%s\nand with the late default route alone:\n%s", routes, givesWay)
		}
		return nil
	})
	reach()
	if !t.Failed() {
		t.Logf("default route %s: the host reached its peer by TCP and UDP %d times, at each place of it", late.name, asked)
	}
}

// moveDefault adds that route, with its rule, or deletes both.
func (b *bed) moveDefault(late lateDefault, how string) {
	b.Helper()
	if late.rule != "" {
		b.ip("rule", how, late.rule)
	}
	for route := range strings.SplitSeq(late.route[b.family], ",") {
		b.ip("route", how, route)
	}
}
