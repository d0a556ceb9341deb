// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"
	"time"

	"replypath/loader/flows"
)

// What was seen is told apart from what would be: a packet that left another way is none that left so.
func TestSeenLeaving(t *testing.T) {
	const would, right = "the reply would leave by eth1, by which its flow arrived", "the kernel sends the reply back the way that its flow came"
	at := time.Now()
	for _, test := range []struct {
		verdict string
		left    flows.Left
		want    string
		seen    *time.Time
	}{
		{Corrected, flows.Left{}, would + "; none was seen leaving so yet", nil},
		{Corrected, flows.Left{At: &at}, would + "; none was seen leaving so yet", nil},
		{Corrected, flows.Left{At: &at, Moved: true}, would, &at},
		{AlreadyRight, flows.Left{At: &at}, right, &at},
		{AlreadyRight, flows.Left{At: &at, Moved: true}, right, nil},
	} {
		e := &Explanation{Kernel: Kernel{Interface: new("eth0")}, Replypath: Way{Interface: new("eth1")}}
		e.conclude(test.verdict, "")
		e.addSeen(test.left)
		if e.Detail != test.want || e.Seen != test.seen {
			t.Errorf("%s, %+v: %q, seen %v, not %q, %v", test.verdict, test.left, e.Detail, e.Seen, test.want, test.seen)
		}
	}
}

// Every verdict and reason is put into words.
func TestDetails(t *testing.T) {
	e := new(Explanation)
	for _, reason := range []string{
		reasonNoRoute, reasonNotManaged, reasonLinkDown, reasonObserve, reasonBoundDevice, reasonNoNextHop, reasonMTU,
	} {
		if e.detail(Fallback, reason) == "" {
			t.Errorf("no words for %s", reason)
		}
	}
	for _, verdict := range []string{Corrected, AlreadyRight, NoFlow, LocalOrigin, Excluded} {
		if e.detail(verdict, "") == "" {
			t.Errorf("no words for %s", verdict)
		}
	}
}
