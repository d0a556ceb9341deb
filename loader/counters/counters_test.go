// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"bytes"
	"cmp"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"replypath/bpf"
	"replypath/loader/flows"
	"replypath/metrics"
	"replypath/test/await"
)

// TestEvents: each event is shown where it belongs.
func TestEvents(t *testing.T) {
	const most = 256
	events := make([]uint64, most)
	for event := range events {
		events[event] = uint64(event)
	}
	var s metrics.Samples
	addEvents(&s, events)
	addTable(&s, &flows.TableUsage{ID: bpf.DatapathTableTABLE_ESTABLISHED, Name: "established", Flows: 3, Lasting: 2, Capacity: 4}, events)
	for _, want := range []metrics.Sample{
		of(UncountedPackets, bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER), of(UnparsedPackets, bpf.DatapathEventEVENT_UNPARSED_TRUNCATED, "truncated"),
		of(IgnoredPackets, bpf.DatapathEventEVENT_IGNORED_EXCLUDED, "excluded"), of(FlowMovesRefused, bpf.DatapathEventEVENT_REFUSED_CONTESTED, "contested"),
		of(FlowMoves, bpf.DatapathEventEVENT_MOVED+bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_TCP), "tcp"),
		of(SourceRepairs, bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4, "ipv4"), of(SourceRepairs, bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6, "ipv6"),
		of(FallbackDropped, bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4, "ipv4"), of(FallbackDropped, bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6, "ipv6"),
		of(FlowAdmissions, bpf.DatapathEventEVENT_ADMITTED_OUTBOUND, "outbound"), of(WaysLearnt, bpf.DatapathEventEVENT_LEARNT_RULE, "rule"),
		of(WaysLearnt, bpf.DatapathEventEVENT_LEARNT_LAST_HOP, "last-hop"), of(WaysLearnt, bpf.DatapathEventEVENT_LEARNT_AS_ROUTED, "direct-return"),
		of(FlowAdmissions, bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED, "established"),
		of(FlowInsertFailures, bpf.DatapathEventEVENT_INSERT_FAILED_ESTABLISHED, "established"),
		of(FlowReadmissions, bpf.DatapathEventEVENT_READMITTED_ESTABLISHED, "established"),
		of(Flows, 3, "established"), of(LastingFlows, 2, "established"), of(FlowTableCapacity, 4, "established"),
	} {
		if !slices.ContainsFunc(s, func(got metrics.Sample) bool { return reflect.DeepEqual(got, want) }) {
			t.Errorf("no %s%v of %v", want.Of.Name, want.Labels, want.Value)
		}
	}
}

func of(f *metrics.Family, value bpf.DatapathEvent, labels ...string) metrics.Sample {
	return metrics.Sample{Of: f, Value: float64(value), Labels: labels}
}

// TestNothingCounted: what has a label that is known beforehand is shown as 0, so that the first occurrence is an increase.
func TestNothingCounted(t *testing.T) {
	var s source
	addEvents(&s.samples, make([]uint64, 256))
	addTable(&s.samples, &flows.TableUsage{ID: bpf.DatapathTableTABLE_ESTABLISHED, Name: "established"}, make([]uint64, 256))
	var names []string
	for _, sample := range s.samples {
		if sample.Of != FlowTableCapacity { // which is not 0
			names = append(names, sample.Of.Name)
		}
	}
	want := await.Must1[[]byte](t)(os.ReadFile("../../metrics/testdata/quiet.prom"))
	await.Must(t, testutil.CollectAndCompare(metrics.NewCollector(&s, ""), bytes.NewReader(want), names...))
}

// source shows samples.
type source struct {
	metrics.Source // whose other methods nobody calls

	samples metrics.Samples
}

func (s *source) Snapshot() (metrics.Samples, error) { return s.samples, nil }

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
	want := map[Series]uint64{}
	expect := func(f *metrics.Family, counts map[string]uint64) {
		for value, count := range counts {
			want[Series{f, "eth0", "eth1", "ipv6", "udp", value}] = count
		}
	}
	for f, count := range map[*metrics.Family]uint64{
		AsymmetricPackets: 46, AsymmetricFlows: 2, CorrectedPackets: 33, CorrectedBytes: 44, CorrectedFlows: 55,
	} {
		expect(f, map[string]uint64{"": count})
	}
	expect(UncorrectedPackets, map[string]uint64{
		"link_down": 0, "no_next_hop": 0, "mtu": 6, "no_header_room": 0, "observe": 0, "bound_device": 0, "rewrite_failed": 0, "unnamed_tunnel": 99,
	})
	expect(LostPackets, map[string]uint64{"unseen": 7, "link_down": 0})
	expect(OriginatedPackets, map[string]uint64{"moved": 8, "routed": 22})
	expect(OriginatedFlows, map[string]uint64{"moved": 9, "routed": 24})
	expect(OriginatedRouted, map[string]uint64{
		"link_down": 12, "no_next_hop": 0, "mtu": 0, "no_header_room": 0, "observe": 0, "bound_device": 0, "rewrite_failed": 0, "weak_host": 10,
	})
	got := pairs.Named(names)
	for series, count := range want {
		if is, shown := got[series]; !shown || is != count {
			t.Errorf("%s%v: %d (shown: %v), want %d", series.Of.Name, series.labels(), is, shown, count)
		}
	}
	await.Same(t, "number of series", len(want), len(got))
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
	}.Named(map[uint16]string{1: "eth0"})
	of := func(f *metrics.Family, value string) uint64 {
		return got[Series{f, "eth0", "eth0", "ipv0", "other", value}]
	}
	await.Same(t, "asymmetric", 4, of(AsymmetricPackets, ""))
	await.Same(t, "no next hop", 1, of(UncorrectedPackets, "no_next_hop"))
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
