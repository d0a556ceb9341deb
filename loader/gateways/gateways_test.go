// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"replypath/loader/attach"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/test/await"
)

// The kernel throws entries away that it has not used for long. That says nothing about the gateway, and it keeps its
// MAC until it fails to answer.
func TestGatewayMACOutlivesItsEntry(t *testing.T) {
	table := New(Host{
		Log: slog.New(slog.DiscardHandler), NameOf: func(int) string { return "eth0" },
		Interface: func(int) Interface { return Interface{} }, Defaults: func() []nexthop.Default { return nil },
	})
	g := &gateway{id: 1}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, step := range []struct {
		state  string
		mac    net.HardwareAddr
		usable bool
	}{
		{nexthop.StateIncomplete, nil, false},
		{nexthop.StateReachable, mac, true},
		{nexthop.StateStale, mac, true},
		{nexthop.StateNone, nil, true},
		{nexthop.StateIncomplete, nil, true},
		{nexthop.StateFailed, nil, false},
		{nexthop.StateIncomplete, nil, false},
	} {
		table.observe(g, nexthop.Gateway{Interface: 1, State: step.state, MAC: step.mac})
		if usable := slices.Equal(g.mac, mac); usable != step.usable || !usable && g.mac != nil {
			t.Errorf("%s: %s", step.state, g.mac)
		}
	}
}

// TestEventKeepsRoutes: a neighbour event changes what it tells of, and nothing of what routes have told of the gateway.
func TestEventKeepsRoutes(t *testing.T) {
	table := New(Host{
		Log: slog.New(slog.DiscardHandler), NameOf: func(int) string { return "eth0" },
		Interface: func(int) Interface { return Interface{} }, Defaults: func() []nexthop.Default { return nil },
	})
	want := nexthop.Gateway{Interface: 1, Address: netip.MustParseAddr("10.0.0.1")}
	for _, field := range reflect.ValueOf(&want).Elem().Fields() {
		switch {
		case field.Kind() == reflect.Bool:
			field.SetBool(true)
		case field.Kind() == reflect.Slice:
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
		case field.Kind() == reflect.Struct && field.IsZero():
			field.Field(0).SetBool(true)
		}
	}
	g := &gateway{Gateway: want, id: 1}
	table.gateways[keyOf(&want)] = g
	want.State, want.MAC, want.Requested = nexthop.StateReachable, net.HardwareAddr{2, 0, 0, 0, 0, 1}, false
	table.Neighbour(nexthop.Gateway{Interface: 1, Address: want.Address, State: want.State, MAC: want.MAC})
	await.Same(t, "gateway", want, g.Gateway)
}

func TestSchedule(t *testing.T) {
	now := time.Now()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, test := range []struct {
		stage stage
		last  net.HardwareAddr
		asked time.Time
		want  time.Time
	}{
		{resolving, mac, now, now.Add(bridgeAfter)},
		{resolving, nil, now, now.Add(unknownAfter)},
		{retried, nil, now, now.Add(bridgeAfter)},
		{held, mac, time.Time{}, now},
		{held, nil, time.Time{}, now},
		{bridged, mac, now, now.Add(resolveAgain)},
	} {
		g := &gateway{stage: test.stage, last: test.last, times: times{asked: test.asked}}
		g.State = nexthop.StateFailed
		g.schedule(now)
		if !g.resolveAt.Equal(test.want) {
			t.Errorf("stage %d, last %s, asked %v ago: %v", test.stage, test.last, now.Sub(test.asked), g.resolveAt.Sub(now))
		}
	}
	for _, test := range []struct {
		state string
		asked time.Time
		want  time.Time
	}{
		{nexthop.StateReachable, time.Time{}, time.Time{}},
		{nexthop.StatePermanent, time.Time{}, time.Time{}},
		{nexthop.StateDelay, time.Time{}, time.Time{}},
		{nexthop.StateNone, time.Time{}, now},
		{nexthop.StateStale, time.Time{}, now},
		{nexthop.StateStale, now.Add(-time.Hour), now},
		{nexthop.StateStale, now, now.Add(resolveAtMost)},
		{nexthop.StateFailed, time.Time{}, now},
		{nexthop.StateFailed, now.Add(-time.Second), now.Add(resolveAgain - time.Second)},
		{nexthop.StateIncomplete, now, now.Add(resolveAgain)},
	} {
		g := &gateway{Gateway: nexthop.Gateway{State: test.state}, times: times{asked: test.asked}}
		g.schedule(now)
		if !g.resolveAt.Equal(test.want) {
			t.Errorf("%s, asked %v ago: %v", test.state, now.Sub(test.asked), g.resolveAt.Sub(now))
		}
	}
}

// TestMACBefore: an interface that was made anew takes the last MAC of its gateway over, one with another name does
// not, be its gateway's address the same: fe80::1 is one on each segment.
func TestMACBefore(t *testing.T) {
	const mac = "02:00:00:00:00:01"
	address := netip.MustParseAddr("fe80::1")
	for name, want := range map[string]string{"eth0": mac, "eth1": ""} {
		served := map[int]Interface{7: {Interface: attach.Interface{Index: 7, Name: name}}}
		journal := pins.Journal{Gateways: []pins.GatewayRecord{
			{ID: 1, Interface: 2, Name: "eth0", Address: address.String(), MAC: mac, Gone: true},
			{ID: 2, Interface: 3, Address: address.String(), MAC: "02:00:00:00:00:02", Gone: true}, // of an earlier version
		}}
		table := New(Host{
			Journal: &journal, NameOf: func(index int) string { return served[index].Name },
			Interface: func(index int) Interface { return served[index] },
		})
		await.Same(t, name, want, table.records.macBefore(gatewayKey{7, address}))
	}
}

// TestFailedIsAskedAtOnce: one that fails is asked again at once, and no sooner than resolveFailed after it was asked
// last; one whose interface only observes is left to the kernel.
func TestFailedIsAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which no time passes
		now := time.Now()
		for _, test := range []struct {
			enforces bool
			asked    time.Time
			want     time.Time
		}{
			{true, time.Time{}, now},
			{true, now.Add(-time.Hour), now},
			{true, now, now.Add(resolveFailed)},
			{false, now, time.Time{}},
		} {
			table := New(Host{
				Log: slog.New(slog.DiscardHandler), NameOf: func(int) string { return "eth0" },
				Interface: func(int) Interface { return Interface{Enforces: test.enforces} },
				Defaults:  func() []nexthop.Default { return nil },
			})
			g := &gateway{Gateway: nexthop.Gateway{State: nexthop.StateReachable}, times: times{asked: test.asked}}
			table.observe(g, nexthop.Gateway{State: nexthop.StateFailed})
			if !g.resolveAt.Equal(test.want) || !g.failed.Equal(now) || g.stage != untouched {
				t.Errorf("enforces: %t, asked %v ago: asked again at %v, failed at %v, stage %d",
					test.enforces, now.Sub(test.asked), g.resolveAt.Sub(now), g.failed, g.stage)
			}
		}
	})
}
