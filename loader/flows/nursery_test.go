// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/test/await"
)

// newSet makes a table of one set that holds these flows.
func newSet(t *testing.T, flows map[uint64]bpf.DatapathFlow) *ebpf.Map {
	t.Helper()
	spec := await.Must1[*ebpf.CollectionSpec](t)(bpf.LoadDatapath()).Maps[bpf.DatapathMapNursery]
	m := await.Must1[*ebpf.Map](t)(ebpf.NewMap(spec))
	t.Cleanup(func() { m.Close() })
	var set bpf.DatapathFlowSet
	way := 0
	for digest, flow := range flows {
		set.Digest[way], set.Flow[way] = digest, flow
		way++
	}
	await.Must(t, m.Put(uint32(0), set))
	return m
}

// TestNursery: what is in the nursery is listed by its state, once, and instead of what is older.
func TestNursery(t *testing.T) {
	handshake := bpf.DatapathFlow{Created: 1, Flags: uint16(bpf.DatapathFlowFlagsFLOW_HANDSHAKE)}
	young, old := bpf.DatapathFlow{Created: 2}, bpf.DatapathFlow{Created: 3}
	maps := &bpf.DatapathMaps{
		Nursery:        newSet(t, map[uint64]bpf.DatapathFlow{1: handshake, 2: young}),
		HalfOpen:       newSet(t, map[uint64]bpf.DatapathFlow{2: old, 3: old}),
		Established:    newSet(t, map[uint64]bpf.DatapathFlow{1: old, 2: old, 4: old}),
		Connectionless: newSet(t, map[uint64]bpf.DatapathFlow{5: old}),
	}
	const nursery = bpf.DatapathTableTABLE_NURSERY
	type place struct {
		Table  bpf.DatapathTable
		Digest uint64
	}
	want := map[string]map[place]bpf.DatapathFlow{
		StateHalfOpen:       {{nursery, 1}: handshake, {bpf.DatapathTableTABLE_HALF_OPEN, 2}: old, {bpf.DatapathTableTABLE_HALF_OPEN, 3}: old},
		StateEstablished:    {{nursery, 2}: young, {bpf.DatapathTableTABLE_ESTABLISHED, 1}: old, {bpf.DatapathTableTABLE_ESTABLISHED, 4}: old},
		StateConnectionless: {{bpf.DatapathTableTABLE_CONNECTIONLESS, 5}: old},
	}
	got := make(map[string]map[place]bpf.DatapathFlow)
	for _, s := range states(maps) {
		got[s.state] = make(map[place]bpf.DatapathFlow)
		await.Must(t, s.each(func(table bpf.DatapathTable, digest uint64, flow *bpf.DatapathFlow) bool {
			got[s.state][place{table, digest}] = *flow
			found := await.Must1[*bpf.DatapathFlow](t)(s.find(digest))
			if found == nil || *found != *flow {
				t.Errorf("%s: %d is found as %+v, listed as %+v", s.state, digest, found, flow)
			}
			return true
		}))
		count := 0
		await.Must(t, s.each(func(bpf.DatapathTable, uint64, *bpf.DatapathFlow) bool {
			count++
			return false
		}))
		if count != 1 {
			t.Errorf("%s: %d more were visited after the last", s.state, count-1)
		}
	}
	await.Same(t, "flows", want, got, cmp.Comparer(func(a, b bpf.DatapathFlow) bool { return a == b }))
}
