// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	gocmp "github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/discover"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/metrics"
	"replypath/test/await"
)

func (r *running) counters() *metrics.Snapshot {
	r.b.Helper()
	return read(r.b, r.Snapshot)
}

// pairs returns what is counted for pairs of interfaces, in the order of their families.
func (r *running) pairs() []metrics.PairCounters {
	r.b.Helper()
	return slices.SortedFunc(slices.Values(r.counters().Pairs), func(a, b metrics.PairCounters) int {
		return cmp.Compare(a.Family, b.Family)
	})
}

func TestCounters(t *testing.T) {
	b := newAnsweringServer(t)
	r := b.start()
	const pings = 3
	for range pings {
		b.ping()
	}
	c := r.counters()
	for _, pair := range []metrics.Pair{
		{From: "eth0", To: "eth1", Family: "ipv4", Protocol: "icmp"},
		{From: "eth0", To: "eth1", Family: "ipv6", Protocol: "icmpv6"},
	} {
		i := slices.IndexFunc(c.Pairs, func(p metrics.PairCounters) bool { return p.Pair == pair })
		if i < 0 {
			t.Errorf("nothing is counted for %+v", pair)
			continue
		}
		got := c.Pairs[i]
		if got.CorrectedPackets != pings || got.AsymmetricPackets != pings || got.CorrectedBytes == 0 ||
			got.CorrectedFlows != got.AsymmetricFlows || got.CorrectedFlows == 0 {
			t.Errorf("counted %+v", got)
		}
		for _, reason := range counters.UncorrectedReasons() {
			if !slices.Contains(c.Uncorrected, metrics.Uncorrected{Pair: pair, Reason: reason}) {
				t.Errorf("no zero for %s of %+v", reason, pair)
			}
		}
	}
	if c.Mode != "enforce" || c.ReloadFailed || c.ReloadSuccess.IsZero() || c.RPFilterDrops == nil || len(c.Features) == 0 {
		t.Errorf("%+v", c)
	}
	if len(c.Unparsed) != 5 || len(c.MovesRefused) != 2 || len(c.Moves) != 6 || c.Ignored["not_own"] != 0 {
		t.Errorf("reasons: %v, %v, %v, %v", c.Unparsed, c.Ignored, c.Moves, c.MovesRefused)
	}
	mechanism := string(mechanisms[0])
	for _, i := range c.Interfaces {
		want := []metrics.Hook{
			{Name: "ingress", Mechanism: mechanism, Attached: true}, {Name: "egress", Mechanism: mechanism, Attached: true},
		}
		if !i.Up || i.RPFilter == nil || !gocmp.Equal(i.Hooks, want) {
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

	before := r.pairs()
	r.stop()
	if _, err := r.Snapshot(); err == nil {
		t.Error("a closed loader has counters")
	}
	r = b.start()
	wantSame(b, "after another start", before, r.pairs())

	// What was counted for an interface stays when it goes, under its name.
	b.ip("link del eth1")
	b.awaitGone("eth1")
	wantSame(b, "without eth1", before, r.pairs())
	r.locked(func() error { b.wantRecycled(r, b.idsOf("eth1")[0]); return nil })
}

// wantRecycled has interfaces come until the id of eth1, which has gone, is given once more: nothing is counted for it.
func (b *server) wantRecycled(r *running, id uint16) {
	b.Helper()
	known := len(r.state.Interfaces)
	for next := uint16(known + 1); next < 4096; next++ {
		r.state.Interfaces = append(r.state.Interfaces, pins.InterfaceRecord{ID: next, Index: int(next) + 1<<20})
	}
	comes := func(index int) error {
		return r.interfaces.Adopt([]discover.Interface{{Index: index, Name: "eth9"}}, bpf.DatapathModeMODE_CONFIGURED)
	}
	await.Must(b.T, comes(1<<22))
	if recycled := r.interfaces.Get(1 << 22).ID; recycled != id {
		b.Fatalf("id %d, want %d", recycled, id)
	}
	pairs, err := counters.ReadPairs(&r.datapath.DatapathMaps)
	await.Must(b.T, err)
	for pair := range maps.Keys(pairs) {
		if counters.Concerns(pair, id) {
			b.Errorf("left: %+v", pair)
		}
	}
	if err := comes(1<<22 + 1); err == nil {
		b.Error("there is an id where all are taken")
	}
	r.state.Interfaces = r.state.Interfaces[:1]
}

// TestCountersOfWhatTheHostBegan: it is counted beside the flow tables, not as one of them.
func TestCountersOfWhatTheHostBegan(t *testing.T) {
	b := newServer(t)
	r := b.start()
	before := r.counters()
	if slices.ContainsFunc(before.Tables, func(table metrics.Table) bool { return table.Name == bpf.DatapathMapOutbound }) {
		t.Errorf("a flow table of notes: %+v", before.Tables)
	}
	want := metrics.Notes{Capacity: uint64(b.maps().Outbound.MaxEntries()), Admissions: before.Outbound.Admissions}
	var counted []uint64
	await.Must(t, b.maps().Events.Lookup(uint32(bpf.DatapathEventEVENT_ADMITTED_OUTBOUND), &counted))
	for cpu := range counted {
		counted[cpu] += 3
		want.Admissions += 3
	}
	await.Must(t, b.maps().Events.Put(uint32(bpf.DatapathEventEVENT_ADMITTED_OUTBOUND), counted))
	if got := r.counters().Outbound; got != want {
		t.Errorf("notes: %+v, want %+v", got, want)
	}
}

// TestPairsForgotten: the counters of an interface's pairs are added up, and go with its id, whichever of the two it is.
func TestPairsForgotten(t *testing.T) {
	b := newServer(t)
	b.start()
	m := b.maps()
	cpus := ebpf.MustPossibleCPU()
	counts := slices.Repeat([]bpf.DatapathPairCount{{Packets: 1, Bytes: 10, Flows: 2}}, cpus)
	of := func(from, to uint16) bpf.DatapathPair { return bpf.DatapathPair{From: from, To: to, Family: 4} }
	for _, pair := range []bpf.DatapathPair{of(1, 2), of(2, 3), of(1, 3)} {
		await.Must(t, m.Pairs.Put(pair, counts))
	}
	await.Must(t, counters.Forget(m, 2))
	pairs, err := counters.ReadPairs(m)
	await.Must(t, err)
	n := uint64(cpus)
	want := counters.Pairs{of(1, 3): {Packets: n, Bytes: 10 * n, Flows: 2 * n}}
	wantSame(b, "of others", want, pairs)
}

// TestStraysAreNoEntries: what nobody here took is not listed as a flow, whoever asks.
func TestStraysAreNoEntries(t *testing.T) {
	b := newServer(t)
	clock, err := b.start().datapath.Clock()
	await.Must(t, err)
	table := read(b, func() (*flows.Table, error) { return flows.Open(b.dir) })
	defer table.Close()
	for flags, want := range map[bpf.DatapathFlowFlags]int{0: 1, bpf.DatapathFlowFlagsFLOW_STRAY: 0} {
		set := bpf.DatapathFlowSet{Digest: [8]uint64{1}}
		set.Flow[0] = bpf.DatapathFlow{Tuple: bpf.DatapathTuple{Protocol: 6}, Seen: clock.Now(), Flags: uint16(flags)}
		await.Must(t, b.maps().Flows.Put(uint32(0), &set))
		await.Must(t, b.maps().Tags.Put(uint32(0), bpf.Tags(set.Digest)))
		entries := read(b, func() ([]flows.Entry, error) {
			return table.Entries(func(*bpf.DatapathTuple) bool { return true })
		})
		if len(entries) != want {
			t.Errorf("with flags %#x: %d entries", flags, len(entries))
		}
	}
}
