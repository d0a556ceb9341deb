// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/pins"
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
	await.Same(t, "(-want +got)", []Unrecorded{{"eth0", 4, 47, 14}}, pairs.unrecorded(names))
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
	want := Totals{Corrected: 7, WouldCorrect: 5, Lost: 13, Uncorrected: map[string]uint64{"mtu": 8}, Failing: Failing{Lost: 13, Uncorrected: 8}, Unrecorded: 2}
	await.Same(t, "(-want +got)", want, got)
}

// TestFewFail: pairs of which a few fail, or one in many, are no reason to worry, whatever others do. What goes as
// routed as it was meant does not fail.
func TestFewFail(t *testing.T) {
	type packets struct {
		corrected, lost, linkDown, mtu, bound uint64
		want                                  Failing
	}
	of := func(to uint16, p packets) Pairs {
		pair := func(outcome bpf.DatapathOutcome) bpf.DatapathPair {
			return bpf.DatapathPair{To: to, Outcome: uint8(outcome)}
		}
		return Pairs{
			pair(bpf.DatapathOutcomeOUTCOME_CORRECTED):      {Packets: p.corrected},
			pair(bpf.DatapathOutcomeOUTCOME_LOST):           {Packets: p.lost},
			pair(bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN): {Packets: p.linkDown},
			pair(bpf.DatapathOutcomeOUTCOME_MTU):            {Packets: p.mtu},
			pair(bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE):   {Packets: p.bound},
			pair(bpf.DatapathOutcomeOUTCOME_OBSERVE):        {Packets: p.bound},
		}
	}
	for _, p := range []packets{
		{}, {corrected: 253, lost: 1}, {lost: 3}, {lost: 2, linkDown: 2, want: Failing{Lost: 4}}, {corrected: 5000, lost: 5},
		{corrected: 4999, lost: 5, want: Failing{Lost: 5}}, {corrected: 100, linkDown: 50, want: Failing{Lost: 50}},
		{mtu: 3}, {bound: 1e6}, {mtu: 40, want: Failing{Uncorrected: 40}}, {corrected: 1e6, mtu: 40},
	} {
		pairs := of(2, p)
		maps.Copy(pairs, of(3, packets{corrected: 1e9}))
		await.Same(t, fmt.Sprintf("of %+v", p), p.want, pairs.Totals().Failing)
	}
}

// TestFailingSince: what failed before a mark is over, and so are a few since.
func TestFailingSince(t *testing.T) {
	then := Totals{Lost: 200, Uncorrected: map[string]uint64{"mtu": 8, "bound_device": 50}, Failing: Failing{Lost: 190, Uncorrected: 8}}
	at := time.Now()
	mark := then.Mark(at, 7)
	await.Same(t, "mark", pins.MarkRecord{At: at, Lost: 200, Uncorrected: 8, NotEntered: 7}, mark)
	now := then
	now.Uncorrected = map[string]uint64{"mtu": 8, "bound_device": 5000}
	for lost, want := range map[uint64]Failing{200: {}, 203: {}, 204: {Lost: 4}, 1000: {Lost: 800}} {
		now.Lost, now.Failing.Lost = lost, lost-10
		want.Lost = min(want.Lost, now.Failing.Lost)
		await.Same(t, fmt.Sprintf("of %d lost", lost), want, now.FailingSince(mark))
	}
	await.Same(t, "without a mark", then.Failing, then.FailingSince(pins.MarkRecord{}))
}
