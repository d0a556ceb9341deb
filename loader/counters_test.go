// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"slices"
	"testing"

	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/flows"
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

// TestPairsInTheHash: pairs that have no slot of their own are counted in the hash, forgotten, and count on.
func TestPairsInTheHash(t *testing.T) {
	b := newServer(t)
	b.start()
	m := b.maps()
	pair := bpf.DatapathPair{From: 1, To: 2, Family: 4, Protocol: uint8(bpf.DatapathProtocolClassCLASS_TCP), Outcome: uint8(bpf.DatapathOutcomeOUTCOME_MTU)}
	var counts []bpf.DatapathPairCount
	await.Must(t, m.PairSlots.Lookup(uint32(7), &counts))
	for cpu := range counts {
		counts[cpu] = bpf.DatapathPairCount{Pair: pair, Packets: 1, Bytes: 10}
	}
	await.Must(t, m.Pairs.Put(pair, counts))
	counts[0].Pair.To = 9
	await.Must(t, m.PairSlots.Put(uint32(7), counts))
	pairs, err := counters.ReadPairs(m, nil)
	await.Must(t, err)
	cpus := uint64(len(counts))
	if got := pairs[pair]; got.Packets != 2*cpus-1 || got.Bytes != 10*(2*cpus-1) {
		t.Errorf("%+v on %d cpus", got, cpus)
	}
	forgotten, err := counters.Forget(m, 9, nil)
	await.Must(t, err)
	forgotten, err = counters.Forget(m, 2, forgotten)
	await.Must(t, err)
	pairs, err = counters.ReadPairs(m, forgotten)
	if await.Must(t, err); len(pairs) != 0 {
		t.Errorf("left: %v", pairs)
	}

	// Meanwhile the programs count on.
	last := len(counts) - 1
	counts[last].Packets += 3
	counts[last].Bytes += 30
	await.Must(t, m.PairSlots.Put(uint32(7), counts))
	forgotten, err = counters.Forget(m, 9, forgotten)
	await.Must(t, err)
	pairs, err = counters.ReadPairs(m, forgotten)
	await.Must(t, err)
	want := counters.Pairs{pair: {Packets: 3, Bytes: 30}}
	if last == 0 { // the only CPU's slot is the other pair's
		want = counters.Pairs{}
	}
	wantSame(b, "counted since", want, pairs)
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
