// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/metrics"
	"replypath/test/await"
)

// TestSetEvents: each event is shown where it belongs.
func TestSetEvents(t *testing.T) {
	const most = 256
	events := make([]uint64, most)
	for event := range events {
		events[event] = uint64(event)
	}
	var s metrics.Snapshot
	setEvents(&s, events)
	for event, got := range map[bpf.DatapathEvent]uint64{
		bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER: s.Uncounted, bpf.DatapathEventEVENT_UNPARSED_TRUNCATED: s.Unparsed["truncated"],
		bpf.DatapathEventEVENT_IGNORED_EXCLUDED: s.Ignored["excluded"], bpf.DatapathEventEVENT_REFUSED_CONTESTED: s.MovesRefused["contested"],
		bpf.DatapathEventEVENT_MOVED + bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_TCP): s.Moves["tcp"],
		bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4:                                            s.SourceRepairs.IPv4, bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6: s.SourceRepairs.IPv6,
		bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4: s.FallbackDropped.IPv4, bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6: s.FallbackDropped.IPv6,
		bpf.DatapathEventEVENT_ADMITTED_OUTBOUND: s.Outbound.Admissions, bpf.DatapathEventEVENT_LEARNT_RULE: s.WaysLearnt["rule"],
		bpf.DatapathEventEVENT_LEARNT_LAST_HOP: s.WaysLearnt["last-hop"], bpf.DatapathEventEVENT_LEARNT_AS_ROUTED: s.WaysLearnt["direct-return"],
	} {
		await.Same(t, fmt.Sprintf("event %d", event), uint64(event), got)
	}
}

// TestNamed: interfaces of one name are one, and every reason has an entry.
func TestNamed(t *testing.T) {
	pair := bpf.DatapathPair{From: 1, To: 2, Family: 6, Protocol: uint8(bpf.DatapathProtocolClassCLASS_UDP)}
	of := func(to uint16, outcome bpf.DatapathOutcome) bpf.DatapathPair {
		p := pair
		p.To, p.Outcome = to, uint8(outcome)
		return p
	}
	const originated = bpf.DatapathOutcomeOUTCOME_ORIGINATED
	pairs, names := Pairs{
		of(2, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC):                                                     {Flows: 2},
		of(2, bpf.DatapathOutcomeOUTCOME_CORRECTED):                                                      {Packets: 3, Bytes: 4, Flows: 5},
		of(3, bpf.DatapathOutcomeOUTCOME_CORRECTED):                                                      {Packets: 30, Bytes: 40, Flows: 50},
		of(3, bpf.DatapathOutcomeOUTCOME_MTU):                                                            {Packets: 6},
		of(3, bpf.DatapathOutcomeOUTCOME_LOST):                                                           {Packets: 7},
		of(3, bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL):                                                 {Packets: 99},
		of(2, bpf.DatapathOutcomeOUTCOME_CORRECTED|originated):                                           {Packets: 8, Flows: 9},
		of(2, bpf.DatapathOutcomeOUTCOME_WEAK_HOST|originated):                                           {Packets: 10, Flows: 11},
		of(2, bpf.DatapathOutcomeOUTCOME_LINK_DOWN|originated):                                           {Packets: 12, Flows: 13},
		{From: 1, To: 1, Family: 4, Protocol: 47, Outcome: uint8(bpf.DatapathOutcomeOUTCOME_UNRECORDED)}: {Packets: 14},
	}, map[uint16]string{1: "eth0", 2: "eth1", 3: "eth1"}
	list, uncorrected, lost := pairs.named(names), pairs.because(uncorrectedReasons, names), pairs.because(lostReasons, names)
	name := metrics.Pair{From: "eth0", To: "eth1", Family: "ipv6", Protocol: "udp"}
	want := []metrics.PairCounters{{
		Pair:              name,
		AsymmetricPackets: 46, AsymmetricFlows: 2, CorrectedPackets: 33, CorrectedBytes: 44, CorrectedFlows: 55,
	}}
	await.Same(t, "(-want +got)", want, list)
	if len(uncorrected) != len(UncorrectedReasons()) ||
		!slices.Contains(uncorrected, metrics.Uncorrected{Pair: name, Reason: "mtu", Packets: 6}) ||
		!slices.Contains(uncorrected, metrics.Uncorrected{Pair: name, Reason: "observe"}) {
		t.Errorf("uncorrected: %+v", uncorrected)
	}
	if len(lost) != len(lostReasons) || !slices.Contains(lost, metrics.Uncorrected{Pair: name, Reason: "unseen", Packets: 7}) {
		t.Errorf("lost: %+v", lost)
	}
	await.Same(t, "(-want +got)", []metrics.Originated{{
		Pair: name, Moved: metrics.Sent{Packets: 8, Flows: 9}, Routed: metrics.Sent{Packets: 22, Flows: 24},
		Reasons: map[string]uint64{"weak_host": 10, "link_down": 12},
	}}, pairs.originated(names))
	unrecorded := pairs.Unrecorded(names, func(uint32) time.Duration { return time.Hour })
	if len(unrecorded) != 1 || time.Since(unrecorded[0].Last) < time.Hour {
		t.Fatalf("unrecorded: %+v", unrecorded)
	}
	unrecorded[0].Last = time.Time{}
	await.Same(t, "(-want +got)", []Unrecorded{{"eth0", 4, 47, 14, time.Time{}}}, unrecorded)
}

// TestRightInterface: a reply by the interface of its flow, without a next hop, is not asymmetric.
func TestRightInterface(t *testing.T) {
	got := Pairs{
		{From: 1, To: 1, Outcome: uint8(bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP)}: {Packets: 1},
		{From: 1, To: 1, Outcome: uint8(bpf.DatapathOutcomeOUTCOME_LINK_DOWN)}:   {Packets: 2},
		{From: 1, To: 1, Outcome: uint8(bpf.DatapathOutcomeOUTCOME_CORRECTED)}:   {Packets: 4},
	}.named(map[uint16]string{1: "eth0"})
	if len(got) != 1 || got[0].AsymmetricPackets != 4 {
		t.Errorf("%+v", got)
	}
}

// TestTotals: each outcome of replies is added up over all pairs; what the host originates is none of them.
func TestTotals(t *testing.T) {
	pair := func(to uint16, outcome bpf.DatapathOutcome) bpf.DatapathPair {
		return bpf.DatapathPair{From: 1, To: to, Family: 4, Outcome: uint8(outcome)}
	}
	packets := func(n uint64) bpf.DatapathPairCount { return bpf.DatapathPairCount{Packets: n} }
	got := Pairs{
		pair(2, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC):                                      packets(100),
		pair(2, bpf.DatapathOutcomeOUTCOME_CORRECTED):                                       packets(3),
		pair(3, bpf.DatapathOutcomeOUTCOME_CORRECTED):                                       packets(4),
		pair(2, bpf.DatapathOutcomeOUTCOME_OBSERVE):                                         packets(5),
		pair(2, bpf.DatapathOutcomeOUTCOME_LOST):                                            packets(6),
		pair(3, bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN):                                  packets(7),
		pair(2, bpf.DatapathOutcomeOUTCOME_MTU):                                             packets(8),
		pair(3, bpf.DatapathOutcomeOUTCOME_MTU):                                             packets(0),
		pair(3, bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP):                                     packets(0),
		pair(3, bpf.DatapathOutcomeOUTCOME_UNRECORDED):                                      packets(2),
		pair(2, bpf.DatapathOutcomeOUTCOME_CORRECTED|bpf.DatapathOutcomeOUTCOME_ORIGINATED): packets(9),
		pair(2, bpf.DatapathOutcomeOUTCOME_OBSERVE|bpf.DatapathOutcomeOUTCOME_ORIGINATED):   packets(10),
	}.Totals()
	want := Totals{Corrected: 7, WouldCorrect: 5, Lost: 13, Uncorrected: map[string]uint64{"mtu": 8}}
	await.Same(t, "(-want +got)", want, got)
}

// TestWrong: what left wrongly is added up by interfaces and reason, whatever the protocol, with the time of the last packet. Those of
// which a few are wrong, or one in many, are no reason to worry.
func TestWrong(t *testing.T) {
	pair := func(outcome bpf.DatapathOutcome, protocol uint8) bpf.DatapathPair {
		return bpf.DatapathPair{From: 1, To: 2, Outcome: uint8(outcome), Protocol: protocol}
	}
	since := func(tick uint32) time.Duration { return time.Duration(1000-tick) * time.Minute }
	got := Pairs{
		pair(bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, 1):     {Flows: 3},
		pair(bpf.DatapathOutcomeOUTCOME_CORRECTED, 1):      {Packets: 3000},
		pair(bpf.DatapathOutcomeOUTCOME_CORRECTED, 2):      {Packets: 2000},
		pair(bpf.DatapathOutcomeOUTCOME_MTU, 1):            {Packets: 2, Last: 940},
		pair(bpf.DatapathOutcomeOUTCOME_MTU, 2):            {Packets: 4, Last: 999},
		pair(bpf.DatapathOutcomeOUTCOME_LOST, 1):           {Packets: 1, Last: 999},
		pair(bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN, 1): {Packets: 4, Last: 940},

		pair(bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP|bpf.DatapathOutcomeOUTCOME_ORIGINATED, 1): {Packets: 9, Last: 999},
		pair(bpf.DatapathOutcomeOUTCOME_WEAK_HOST|bpf.DatapathOutcomeOUTCOME_ORIGINATED, 1):   {Packets: 9, Last: 999},
	}.Wrong(map[uint16]string{1: "eth0", 2: "eth1"}, since)
	slices.SortFunc(got, func(a, b Wrong) int { return cmp.Compare(a.Reason, b.Reason) })
	for n := range got {
		if age := time.Since(got[n].Last); age < 50*time.Second || age > 70*time.Second {
			t.Errorf("%s: last %s ago", got[n].Reason, age)
		}
		got[n].Last = time.Time{}
	}
	want := []Wrong{{From: "eth0", To: "eth1", Reason: ReasonLost, Packets: 5, Corrected: 5000}, {From: "eth0", To: "eth1", Reason: "mtu", Packets: 6, Corrected: 5000},
		{From: "eth0", To: "eth1", Reason: "no_next_hop", Packets: 9, Originated: true}}
	await.Same(t, "(-want +got)", want, got)
	if !got[0].IsFew() || got[1].IsFew() {
		t.Errorf("few: %v, %v", got[0].IsFew(), got[1].IsFew())
	}
	for _, w := range []Wrong{{Packets: 3}, {Packets: 1, Corrected: 253}, {Packets: 40, Corrected: 1e6}} {
		if !w.IsFew() {
			t.Errorf("not few: %+v", w)
		}
	}
}
