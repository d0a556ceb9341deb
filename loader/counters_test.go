// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/flows"
	"replypath/metrics"
	"replypath/test/await"
)

func (r *running) counters() metrics.Samples {
	r.b.Helper()
	return read(r.b, r.Snapshot)
}

// sum adds up the series of a metric whose labels have all of these values.
func sum(samples metrics.Samples, of *metrics.Family, labels ...string) (sum float64) {
	for _, s := range samples {
		if s.Of == of && !slices.ContainsFunc(labels, func(label string) bool { return !slices.Contains(s.Labels, label) }) {
			sum += s.Value
		}
	}
	return sum
}

// ofPairs are the series of interface pairs, by their names and labels.
func ofPairs(samples metrics.Samples) map[string]float64 {
	values := make(map[string]float64)
	for _, s := range samples {
		if slices.Contains(s.Of.Labels, "from_interface") {
			values[fmt.Sprint(s.Of.Name, s.Labels)] = s.Value
		}
	}
	return values
}

// TestPairsForgotten: the counters of an interface's pairs are added up, and go with its id, whichever of the two it is.
// Of two pairs that share a slot on two CPUs, the other one stays.
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
	each := m.PairSlots.MaxEntries() / uint32(cpus)
	for slot, pair := range map[uint32]bpf.DatapathPair{5: of(1, 2), each + 5: of(1, 3), 6: of(2, 2), 7: of(1, 3)} {
		await.Must(t, m.PairSlots.Put(slot, bpf.DatapathPairSlot{Pair: pair, Count: counts[0]}))
	}
	n := uint64(cpus)
	times := func(n uint64) bpf.DatapathPairCount {
		return bpf.DatapathPairCount{Packets: n, Bytes: 10 * n, Flows: 2 * n}
	}
	want := counters.Pairs{of(1, 2): times(n + 1), of(2, 3): times(n), of(1, 3): times(n + 2), of(2, 2): times(1)}
	await.Same(b, "of all", want, await.Must1[counters.Pairs](t)(counters.ReadPairs(m)))
	await.Must(t, counters.Forget(m, 2))
	maps.DeleteFunc(want, func(pair bpf.DatapathPair, _ bpf.DatapathPairCount) bool { return counters.Concerns(pair, 2) })
	await.Same(b, "of others", want, await.Must1[counters.Pairs](t)(counters.ReadPairs(m)))
	slots := 0
	await.Must(t, m.EachPairSlot(func(*bpf.DatapathPairSlot) { slots++ }))
	await.Same(b, "slots that are taken", 2, slots)
}

// TestStraysAreNoEntries: what nobody here took is not listed as a flow, whoever asks.
func TestStraysAreNoEntries(t *testing.T) {
	b := newServer(t)
	clock, err := b.start().datapath.Clock()
	await.Must(t, err)
	table := read(b, func() (*flows.Table, error) { return flows.Open(b.dir) })
	defer table.Close()
	strays := bpf.FlowTables(&b.maps().DatapathMaps)[bpf.DatapathTableTABLE_HALF_OPEN]
	for flags, want := range map[bpf.DatapathFlowFlags]int{0: 1, bpf.DatapathFlowFlagsFLOW_STRAY: 0} {
		flow := bpf.DatapathFlow{Tuple: bpf.DatapathTuple{Protocol: 6}, Seen: clock.Now(), Flags: uint16(flags)}
		await.Must(t, strays.Put(1, &flow))
		entries := read(b, func() ([]flows.Entry, error) {
			return table.Entries(func(*bpf.DatapathTuple) bool { return true })
		})
		await.Same(t, fmt.Sprintf("entries with flags %#x", flags), want, len(entries))
	}
}
