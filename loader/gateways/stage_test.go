// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"replypath/loader/nexthop"
	"replypath/test/await"
)

// TestTransitions: every event is decided in every stage, and every stage is come to.
func TestTransitions(t *testing.T) {
	reached := map[stage]bool{untouched: true}
	for range stages {
		for from := range reached {
			for _, transition := range transitions {
				reached[transition.to[from]] = true
			}
		}
	}
	for s := range stages {
		if stageNames[s] == "" || !reached[s] {
			t.Errorf("stage %d, %q: come to: %t", s, stageNames[s], reached[s])
		}
		for e, transition := range transitions {
			if to, isDecided := transition.to[s]; !isDecided || to >= stages {
				t.Errorf("%s: %q (event %d) leads to %d, decided: %t", stageNames[s], transition.what, e, to, isDecided)
			}
		}
	}
}

// TestTransitionsAreDocumented: docs/design/gateways.md has the same table.
func TestTransitionsAreDocumented(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "| what happens | %s | why |\n|%s\n",
		strings.Join(stageNames[:], " | "), strings.Repeat("---|", int(stages)+2))
	for _, transition := range transitions {
		fmt.Fprintf(&table, "| %s |", transition.what)
		for from := range stages {
			if to := transition.to[from]; to == from {
				table.WriteString(" - |")
			} else {
				fmt.Fprintf(&table, " %s |", stageNames[to])
			}
		}
		fmt.Fprintf(&table, " %s |\n", transition.why)
	}
	text := await.Must1[[]byte](t)(os.ReadFile("../../docs/design/gateways.md"))
	if !strings.Contains(string(text), "\n\n"+table.String()+"\n") {
		t.Errorf("docs/design/gateways.md does not have this table:\n%s", table.String())
	}
}

// TestFailedIsAskedAtOnce: one that fails is asked again at once, and no sooner than resolveFailed after it was asked
// last; one whose interface only observes is left to the kernel.
func TestFailedIsAskedAtOnce(t *testing.T) {
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
			Log: slog.New(slog.DiscardHandler), NameOf: func(int) string { return "eth0" }, Now: func() time.Time { return now },
			Interface: func(int) Interface { return Interface{Enforces: test.enforces} },
			Defaults:  func() []nexthop.Default { return nil },
		})
		g := &gateway{Gateway: nexthop.Gateway{State: nexthop.StateReachable}, times: times{asked: test.asked}}
		table.observe(g, nexthop.Gateway{State: nexthop.StateFailed})
		if !g.resolveAt.Equal(test.want) || !g.failed.Equal(now) || g.stage != untouched {
			t.Errorf("enforces: %t, asked %v ago: asked again at %v, failed at %v, %s",
				test.enforces, now.Sub(test.asked), g.resolveAt.Sub(now), g.failed, stageNames[g.stage])
		}
	}
}
