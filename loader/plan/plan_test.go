// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"
	"time"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/history"
	"replypath/test/testhost"
)

// TestFirstLine: the plan is not glad of what doctor warns of, and what enforcing mends is something to do.
func TestFirstLine(t *testing.T) {
	down := func(h *snapshot.Host) { h.Interfaces[1].Up = false }
	attached := func(h *snapshot.Host) {
		h.Attached = true
		for _, i := range h.Interfaces {
			h.Hooks = append(h.Hooks, testhost.Hook(i.Index, false, true, "ours", true), testhost.Hook(i.Index, true, true, "ours", true))
		}
	}
	for _, test := range []struct {
		name   string
		change func(*snapshot.Host)
		want   string
	}{
		{"in order", func(*snapshot.Host) {}, "nothing to do here"},
		{"eth1 is down", down, "nothing to do here; doctor has 1 warning"},
		{"replies leave by eth0", func(h *snapshot.Host) {
			h.OwnWays = []snapshot.OwnWay{{Address: testhost.Prefix("10.4.0.100/24"), On: "eth1", By: "eth0", Device: testhost.Eth0}}
		}, "ready: replypath try"},
		{"enforced already, eth1 is down", testhost.And(attached, testhost.Enforces, down, func(h *snapshot.Host) {
			h.OwnWays = []snapshot.OwnWay{{Address: testhost.Prefix("10.4.0.100/24"), On: "eth1", By: "eth0", Device: testhost.Eth0}}
		}), "nothing to do here; doctor has 1 warning"},
		{"only observed", testhost.And(attached, testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonObserve, Flows: 1})),
			"ready: replypath mode enforce"},
		{"an unmanaged way out", testhost.And(attached, testhost.Enforces, testhost.Wrong(snapshot.WrongWay{From: "tun9", To: "eth1", Reason: snapshot.ReasonNotManaged, Flows: 1})),
			"blocked: wrong-way: replies of eth1 leave by tun9: 1 live flow, reason not_managed: replypath is not attached there"},
	} {
		p := &planner{Host: testhost.New(), history: history.New()}
		p.judgeOf.Host = p.Host
		test.change(p.Host)
		if got := p.plan(time.Time{}).Summary; got != test.want {
			t.Errorf("%s: %q, not %q", test.name, got, test.want)
		}
	}
}
