// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/discover"
	"replypath/loader/pins"
	"replypath/metrics"
	"replypath/test/harness"
	"replypath/test/topology"
)

func (r *running) counters() *metrics.Snapshot {
	r.bed.Helper()
	var c *metrics.Snapshot
	r.bed.inside(func() (err error) {
		c, err = r.Snapshot()
		return err
	})
	return c
}

func TestCounters(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	const pings = 3
	for range pings {
		pingB(t, s)
	}
	c := r.counters()
	for _, want := range []metrics.PairCounters{
		{Pair: metrics.Pair{From: "eth0", To: "eth1", Family: "ipv4", Protocol: "icmp"}},
		{Pair: metrics.Pair{From: "eth0", To: "eth1", Family: "ipv6", Protocol: "icmpv6"}},
	} {
		i := slices.IndexFunc(c.Pairs, func(p metrics.PairCounters) bool { return p.Pair == want.Pair })
		if i < 0 {
			t.Errorf("nothing is counted for %+v", want.Pair)
			continue
		}
		got := c.Pairs[i]
		if got.CorrectedPackets != pings || got.AsymmetricPackets != pings || got.CorrectedBytes == 0 ||
			got.CorrectedFlows != got.AsymmetricFlows || got.CorrectedFlows == 0 {
			t.Errorf("counted %+v", got)
		}
		for _, reason := range counters.UncorrectedReasons() {
			if !slices.Contains(c.Uncorrected, metrics.Uncorrected{Pair: want.Pair, Reason: reason}) {
				t.Errorf("no zero for %s of %+v", reason, want.Pair)
			}
		}
	}
	if c.Mode != "enforce" || c.ReloadFailed || c.ReloadSuccess.IsZero() || c.RPFilterDrops == nil || len(c.Features) == 0 {
		t.Errorf("%+v", c)
	}
	if len(c.Unparsed) != 5 || len(c.MovesRefused) != 2 || len(c.Moves) != 6 || c.Ignored["not_own"] != 0 {
		t.Errorf("reasons: %v, %v, %v, %v", c.Unparsed, c.Ignored, c.Moves, c.MovesRefused)
	}
	for _, i := range c.Interfaces {
		want := []metrics.Hook{
			{Name: "ingress", Mechanism: byDefault(), Attached: true}, {Name: "egress", Mechanism: byDefault(), Attached: true},
		}
		if !i.Up || i.RPFilter == nil || !cmp.Equal(i.Hooks, want) {
			t.Errorf("interface %+v", i)
		}
	}
	if len(c.Interfaces) != 2 || len(c.Gateways) != 2 || !c.Gateways[0].Reachable || c.Gateways[0].Interface != "eth0" {
		t.Errorf("interfaces %+v, gateways %+v", c.Interfaces, c.Gateways)
	}
	for _, table := range c.Tables {
		if table.Name == "connectionless" && (table.Flows == 0 || table.Admissions != table.Flows || table.Capacity < table.Flows) {
			t.Errorf("table %+v", table)
		}
	}

	before := c.Pairs
	r.stop()
	if _, err := r.Snapshot(); err == nil {
		t.Error("a closed loader has counters")
	}
	after := b.start(nil).counters().Pairs
	slices.SortFunc(before, comparePairs)
	slices.SortFunc(after, comparePairs)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after another start (-before +after):\n%s", diff)
	}
}

// What the host begins is counted beside the flow tables, not as one of them.
func TestCountersOfWhatTheHostBegan(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	before := r.counters()
	if slices.ContainsFunc(before.Tables, func(table metrics.Table) bool { return table.Name == bpf.DatapathMapOutbound }) {
		t.Errorf("a flow table of notes: %+v", before.Tables)
	}
	for _, f := range s.Families() {
		listener, err := s.A.Listen(within(t), "tcp", netip.AddrPortFrom(s.A.Eth0.Address(f), 0).String())
		harness.Must(t, err)
		defer listener.Close()
		conn, err := s.B.Dial(within(t), "tcp", listener.Addr().String())
		harness.Must(t, err)
		defer conn.Close()
	}
	// That notes make room is TestSymmetricScan's; here it is who shows it.
	var evicted []uint64
	harness.Must(t, b.maps().Events.Lookup(uint32(bpf.DatapathEventEVENT_EVICTED_OUTBOUND), &evicted))
	for cpu := range evicted {
		evicted[cpu] += 3
	}
	harness.Must(t, b.maps().Events.Put(uint32(bpf.DatapathEventEVENT_EVICTED_OUTBOUND), evicted))
	want := metrics.Notes{
		Capacity:   uint64(newConfig().MaxEntries) / 4,
		Admissions: before.Outbound.Admissions + uint64(len(s.Families())),
		Evictions:  before.Outbound.Evictions + 3*uint64(len(evicted)),
	}
	if got := r.counters().Outbound; got != want {
		t.Errorf("notes: %+v, want %+v", got, want)
	}
}

func comparePairs(a, b metrics.PairCounters) int {
	if a.Family < b.Family {
		return -1
	}
	return 1
}

// What was counted for an interface stays when it goes, under its name.
func TestCountersOfAGoneInterface(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	before := r.counters().Pairs
	b.ip("link del eth1\n")
	b.awaitGone("eth1")
	after := r.counters().Pairs
	slices.SortFunc(before, comparePairs)
	slices.SortFunc(after, comparePairs)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestRecycledIDStartsAnew(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	b.ip("link del eth1\n")
	b.awaitGone("eth1")
	id := b.idsOf("eth1")[0]

	r.mu.Lock()
	defer r.mu.Unlock()
	known := len(r.state.Interfaces)
	for next := uint16(known + 1); next < 4096; next++ {
		r.state.Interfaces = append(r.state.Interfaces, pins.InterfaceRecord{ID: next, Index: int(next) + 1<<20})
	}
	comes := func(index int) error {
		return r.interfaces.Adopt([]discover.Interface{{Index: index, Name: "eth9"}}, bpf.DatapathModeMODE_CONFIGURED)
	}
	harness.Must(t, comes(1<<22))
	if recycled := r.interfaces.Get(1 << 22).ID; recycled != id {
		t.Fatalf("id %d, want %d", recycled, id)
	}
	pairs, err := counters.ReadPairs(&r.datapath.DatapathMaps, r.state.Forgotten)
	harness.Must(t, err)
	for pair := range maps.Keys(pairs) {
		if counters.Concerns(pair, id) {
			t.Errorf("left: %+v", pair)
		}
	}
	if err := comes(1<<22 + 1); err == nil {
		t.Error("there is an id where all are taken")
	}
	r.state.Interfaces = r.state.Interfaces[:1]
}

func TestPairsInTheHash(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	m := b.maps()
	pair := bpf.DatapathPair{From: 1, To: 2, Family: 4, Protocol: uint8(bpf.DatapathProtocolClassCLASS_TCP), Outcome: uint8(bpf.DatapathOutcomeOUTCOME_MTU)}
	var counts []bpf.DatapathPairCount
	harness.Must(t, m.PairSlots.Lookup(uint32(7), &counts))
	for cpu := range counts {
		counts[cpu] = bpf.DatapathPairCount{Pair: pair, Packets: 1, Bytes: 10}
	}
	harness.Must(t, m.Pairs.Put(pair, counts))
	counts[0].Pair.To = 9
	harness.Must(t, m.PairSlots.Put(uint32(7), counts))
	pairs, err := counters.ReadPairs(m, nil)
	harness.Must(t, err)
	cpus := uint64(len(counts))
	if got := pairs[pair]; got.Packets != 2*cpus-1 || got.Bytes != 10*(2*cpus-1) {
		t.Errorf("%+v on %d cpus", got, cpus)
	}
	forgotten, err := counters.Forget(m, 9, nil)
	harness.Must(t, err)
	forgotten, err = counters.Forget(m, 2, forgotten)
	harness.Must(t, err)
	pairs, err = counters.ReadPairs(m, forgotten)
	if harness.Must(t, err); len(pairs) != 0 {
		t.Errorf("left: %v", pairs)
	}

	// Meanwhile the programs count on.
	last := len(counts) - 1
	counts[last].Packets += 3
	counts[last].Bytes += 30
	harness.Must(t, m.PairSlots.Put(uint32(7), counts))
	forgotten, err = counters.Forget(m, 9, forgotten)
	harness.Must(t, err)
	pairs, err = counters.ReadPairs(m, forgotten)
	harness.Must(t, err)
	want := counters.Pairs{pair: {Packets: 3, Bytes: 30}}
	if last == 0 { // the only CPU's slot is the other pair's
		want = counters.Pairs{}
	}
	if diff := cmp.Diff(want, pairs); diff != "" {
		t.Errorf("counted since (-want +got):\n%s", diff)
	}
}
