// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"replypath/loader/nexthop"
)

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
