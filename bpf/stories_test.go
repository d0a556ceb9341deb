// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"replypath/bpf"
	"replypath/bpf/internal/fuzz"
)

// TestStories runs what raises every event and ends with every outcome, however few packets TestModel runs.
func TestStories(t *testing.T) {
	for name, oldKernel := range map[string]bool{"old kernel": true, "this kernel": false} {
		t.Run(name, func(t *testing.T) {
			r := newFuzzer(t, fuzz.Options(oldKernel), fuzz.Sockets{})
			tell(t, r, fuzz.Stories())
			wantAllSeen(t, r)
			checkRemembered(t, r, bpf.DatapathMapFragments, bpf.DatapathMapForeign, bpf.DatapathMapOriginated, fuzz.Answered)
		})
	}
	t.Run("sockets", func(t *testing.T) {
		r := newFuzzer(t, fuzz.Options(true), realSockets(t))
		tell(t, r, fuzz.StoriesOfSockets())
		for _, event := range []bpf.DatapathEvent{bpf.DatapathEventEVENT_IGNORED_SEGMENT, bpf.DatapathEventEVENT_READMITTED_ESTABLISHED} {
			if r.Events[event] == 0 {
				t.Errorf("no packet raised %s", eventSet[event])
			}
		}
		checkRemembered(t, r, bpf.DatapathMapAsked)
	})
	t.Run("full tables", func(t *testing.T) {
		r := newFuzzer(t, tiny(), fuzz.Sockets{})
		for _, p := range fuzz.StoriesOfFullTables() {
			if what, err := r.RunFullProgram(p); what != "" || err != nil {
				t.Fatal(what, err)
			}
		}
		counts, err := r.Counted()
		if err != nil {
			t.Fatal(err)
		}
		for event := bpf.DatapathEventEVENT_EVICTED_HALF_OPEN; event <= bpf.DatapathEventEVENT_EVICTED_OUTBOUND; event++ {
			if counts[event] == 0 {
				t.Errorf("no packet raised %s", eventSet[event])
			}
		}
	})
}

// tell holds stories against the model.
func tell(t *testing.T, r *fuzz.Runner, stories []fuzz.Program) {
	t.Helper()
	for _, p := range stories {
		d, err := r.RunProgram(p, true)
		if err != nil {
			t.Fatal(err)
		}
		if d != nil {
			t.Fatalf("%s\n%v\nat step %d: %s", p.Setup, p.Steps, d.Step, d.What)
		}
	}
}

// wantAllSeen wants each event and each outcome that needs neither sockets nor full tables.
func wantAllSeen(t *testing.T, r *fuzz.Runner) {
	t.Helper()
	for event, name := range eventSet {
		if r.Events[event] == 0 && !slices.Contains(unseen, event) {
			t.Errorf("no packet raised %s", name)
		}
	}
	const originated = bpf.DatapathOutcomeOUTCOME_ORIGINATED
	for outcome := range bpf.DatapathOutcomeOUTCOME_END {
		if slices.Contains(unseenOutcomes, outcome) {
			continue
		}
		if outcome != bpf.DatapathOutcomeOUTCOME_WEAK_HOST && r.Outcomes[outcome] == 0 {
			t.Errorf("no reply had outcome %d", outcome)
		}
		ofReplies := []bpf.DatapathOutcome{bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, bpf.DatapathOutcomeOUTCOME_LOST, bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN}
		if !slices.Contains(ofReplies, outcome) && r.Outcomes[outcome|originated] == 0 {
			t.Errorf("nothing that the host originates had outcome %d", outcome)
		}
	}
}
