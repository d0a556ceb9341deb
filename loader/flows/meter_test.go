// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"slices"
	"testing"
	"time"

	"replypath/bpf"
)

// Of many flows the first by each order are kept, in order, whatever came first.
func TestRankings(t *testing.T) {
	since, corrected, age := []uint64{5, 0, 9, 9, 1}, []uint64{50, 70, 10, 90, 60}, []time.Duration{3, 1, 5, 2, 4}
	for order, want := range map[Order][]uint64{
		ByRate:      {2, 3, 0}, // equal ones by their digests
		ByCorrected: {3, 1, 4},
		ByAge:       {1, 3, 0},
	} {
		for _, offered := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {3, 0, 4, 2, 1}} {
			r := (&Meter{Order: order, Limit: 3}).newRanking()
			for _, i := range offered {
				flow := bpf.DatapathFlow{Corrected: corrected[i]}
				r.offer(candidate{id: life{digest: uint64(i)}, flow: &flow, age: age[i], since: since[i]})
				flow.Corrected = 0 // it is read into again
			}
			var got []uint64
			for _, c := range r.best {
				got = append(got, c.id.digest)
				if c.flow.Corrected != corrected[c.id.digest] {
					t.Errorf("%s: flow %d has %d packets corrected", order, c.id.digest, c.flow.Corrected)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s of %v: %v, not %v", order, offered, got, want)
			}
		}
	}
}

// TestEnded: a closed connection leaves the list once its last packets were shown.
func TestEnded(t *testing.T) {
	closing := bpf.DatapathFlow{State: uint8(bpf.DatapathFlowStateFLOW_CLOSING)}
	reset := bpf.DatapathFlow{Flags: uint16(bpf.DatapathFlowFlagsFLOW_RESET)}
	for _, test := range []struct {
		flow  bpf.DatapathFlow
		since uint64
		want  bool
	}{{closing, 0, true}, {closing, 1, false}, {reset, 0, true}, {bpf.DatapathFlow{}, 0, false}} {
		if c := (candidate{flow: &test.flow, since: test.since}); c.isOver() != test.want {
			t.Errorf("state %d, flags %d, %d packets: it has ended: %t", test.flow.State, test.flow.Flags, test.since, !test.want)
		}
	}
}

func TestMeterSince(t *testing.T) {
	id := life{digest: 1, created: 10}
	flow := &bpf.DatapathFlow{Corrected: 7}
	for _, test := range []struct {
		what   string
		before map[life]uint64
		want   uint64
	}{
		{"the first look", nil, 0},
		{"a flow that was not there", map[life]uint64{{digest: 2, created: 10}: 3}, 7},
		{"another flow of the tuple", map[life]uint64{{digest: 1, created: 9}: 3}, 7},
		{"a flow that was there", map[life]uint64{id: 3}, 4},
		{"a table that was emptied", map[life]uint64{id: 9}, 0},
	} {
		m := Meter{corrected: test.before}
		if got := m.since(id, flow); got != test.want {
			t.Errorf("%s: %d, not %d", test.what, got, test.want)
		}
	}
}
