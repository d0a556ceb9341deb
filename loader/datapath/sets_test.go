// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/test/await"
	"replypath/test/short"
)

// tuple is the n-th of a realistic set: few clients with many connections each,
// which differ in single bits of port and address.
func tuple(n int) bpf.DatapathTuple {
	address := [4]byte{10, 16, byte(n >> 14), byte(n >> 6)}
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], uint16(32768+n%64))
	return bpf.DatapathTuple{
		Peer:     netip.AddrFrom4(address).As16(),
		Self:     netip.MustParseAddr("10.4.0.100").As16(),
		PeerPort: binary.NativeEndian.Uint16(port[:]),
		SelfPort: 5432,
		Protocol: 6,
	}
}

// A table takes as many flows as it is meant for, and all but one in ten thousand find a free way. Small tables are
// filled many times, as one flow more or less is chance.
func TestCapacity(t *testing.T) {
	total := uint32(1 << 20)
	sizes := []uint32{1024, 65536, 262144, total}
	if short.Run(t) {
		total /= 8
		sizes = []uint32{1024, total}
	}
	for _, flows := range sizes {
		pushed := uint32(0)
		for range total / flows {
			pushed += flows - uint32(fill(t, flows))
		}
		t.Logf("tables of %d flows: %d of %d found no free way", flows, pushed, total)
		if pushed > total/10000 {
			t.Errorf("tables of %d flows: %d of %d found no free way", flows, pushed, total)
		}
	}
}

// fill enters as many flows into a table as it is meant for and returns how many it holds.
func fill(t *testing.T, flows uint32) int {
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	c := newCopier(establishedUnits * unitFor(flows))
	for n := range int(flows) {
		entry := &bpf.DatapathFlow{Tuple: tuple(n)}
		c.enter(seeds.Digest(entry.Tuple), entry)
	}
	held := 0
	for _, set := range c.sets {
		held += used(set)
	}
	return held
}

// A table that is too small for all keeps the flows that are in use, whatever comes first.
func TestCopyToASmallTable(t *testing.T) {
	const sets = 200
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	from, to := flowTable(t, sets), flowTable(t, sets/2)
	for index := range uint32(sets) {
		var set bpf.DatapathFlowSet
		for way := range set.Flow {
			flow := bpf.DatapathFlow{Tuple: tuple(int(index)*len(set.Flow) + way), State: uint8(bpf.DatapathFlowStateFLOW_CLOSING)}
			if way == len(set.Flow)-1 {
				flow.State = 0
			}
			set.Digest[way], set.Flow[way] = seeds.Digest(flow.Tuple), flow
		}
		await.Must(t, from.put(index, &set, bpf.Tags(set.Digest)))
	}
	await.Must(t, copyFlows(to, from, seeds))
	kept := 0
	await.Must(t, to.Each(func(digest uint64, flow *bpf.DatapathFlow) bool {
		found, err := to.Find(digest)
		if await.Must(t, err); found == nil {
			t.Errorf("%v is in no set where it is looked for", flow.Tuple)
		}
		if flow.State == 0 {
			kept++
		}
		return true
	}))
	if kept != sets {
		t.Errorf("of %d flows in use %d were kept beside closed ones", sets, kept)
	}
}

// newMap returns a map of the datapath with so many entries.
func newMap(t *testing.T, name string, entries uint32) *ebpf.Map {
	t.Helper()
	spec, err := bpf.LoadDatapath()
	await.Must(t, err)
	of := spec.Maps[name]
	of.MaxEntries = entries
	table, err := ebpf.NewMap(of)
	if err != nil {
		t.Fatalf("create a map, which needs root: %v", err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// What the host began is known in a map of another size as well.
func TestCopyNotes(t *testing.T) {
	from, to := newMap(t, bpf.DatapathMapOutbound, 8192), newMap(t, bpf.DatapathMapOutbound, 16384)
	const count = 5000 // more than one call reads
	for digest := range uint64(count) {
		await.Must(t, from.Put(digest, bpf.DatapathNote{Sent: uint32(digest) + 1, Heard: uint32(digest)}))
	}
	await.Must(t, copyHash[bpf.DatapathNote](to, from))
	for digest := range uint64(count) {
		var note bpf.DatapathNote
		await.Must(t, to.Lookup(digest, &note))
		if note.Sent != uint32(digest)+1 || note.Heard != uint32(digest) {
			t.Errorf("note %d became %+v", digest, note)
		}
	}
}

// A way that was written while it was read, so that it has the digest of one flow and the
// tuple of another, is left out.
func TestCopyLeavesOutWhatIsTorn(t *testing.T) {
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	from, to := flowTable(t, 1), flowTable(t, 1)
	var set, copied bpf.DatapathFlowSet
	set.Digest[0], set.Flow[0].Tuple = seeds.Digest(tuple(1)), tuple(2)
	set.Digest[1], set.Flow[1].Tuple = seeds.Digest(tuple(3)), tuple(3)
	await.Must(t, from.put(0, &set, bpf.Tags(set.Digest)))
	if err := copyFlows(to, from, seeds); err != nil {
		t.Fatal(err)
	}
	await.Must(t, to.flows.Lookup(to.region.First, &copied))
	if copied.Digest != [8]uint64{set.Digest[1]} || copied.Flow[0].Tuple != tuple(3) {
		t.Errorf("copied digests %x", copied.Digest)
	}
}

// flowTable returns the table of half-open connections in maps of so many units.
func flowTable(t *testing.T, units uint32) *Table {
	t.Helper()
	flows, tags := newMap(t, bpf.DatapathMapFlows, allUnits*units), newMap(t, bpf.DatapathMapTags, allUnits*units)
	return &tablesOf(flows, tags)[bpf.DatapathTableTABLE_HALF_OPEN]
}

// TestEach: every entry is read whose tag is there, of the own region only, over several windows of memory.
func TestEach(t *testing.T) {
	const units = 2000
	maps := flowTable(t, units)
	for _, table := range tablesOf(maps.flows, maps.tags) {
		last := table.region.Sets - 1
		var want []uint64
		enter := func(index uint32) {
			set := bpf.DatapathFlowSet{Digest: [8]uint64{7: uint64(index+1)<<2 | uint64(table.ID)}}
			await.Must(t, table.put(index, &set, bpf.Tags(set.Digest)))
			want = append(want, set.Digest[7])
		}
		wantAll := func() {
			t.Helper()
			var got []uint64
			await.Must(t, table.Each(func(digest uint64, _ *bpf.DatapathFlow) bool {
				got = append(got, digest)
				return true
			}))
			await.Same(t, table.Name(), want, got)
		}
		wantAll()
		unseen := bpf.DatapathFlowSet{Digest: [8]uint64{1}}
		await.Must(t, table.put(1, &unseen, bpf.Overflowed))
		enter(0)
		enter(1300)
		enter(last)
		wantAll()
		want = nil
		for index := range last + 1 {
			enter(index)
		}
		wantAll()
	}
}

// TestRegions: the largest table has room for the configured flows, and every set of the map is of one table.
func TestRegions(t *testing.T) {
	for _, largest := range []uint32{1024, 1025, 65535, 262144, 1 << 24} {
		sets, next := sizes(largest)[bpf.DatapathMapFlows], uint32(0)
		regions := regions(sets)
		slices.SortFunc(regions[:], func(a, b bpf.Region) int { return cmp.Compare(a.First, b.First) })
		for _, region := range regions {
			if region.First != next || region.Sets == 0 {
				t.Errorf("%d flows: %d sets at %d, not at %d", largest, region.Sets, region.First, next)
			}
			next += region.Sets
		}
		bytes := uint64(sets) * setBytes
		if next != sets || largestCapacity(sets) < int(min(largest, 15<<20)) || bytes > math.MaxUint32-1<<16 {
			t.Errorf("%d flows: %d sets of %d, %d bytes, made for %d", largest, next, sets, bytes, largestCapacity(sets))
		}
	}
}

// Where only a gateway will do, the only one of the interface comes after the flow's own, if it serves all peers.
func TestGatewaysOf(t *testing.T) {
	byGateway := uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	target := &bpf.DatapathInterface{NextHop: uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY), Gateway4: 4, Gateway6: 6}
	partial := *target // of IPv4
	partial.Flags = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4)
	v4 := netip.MustParseAddr("10.1.0.1").As16()
	for _, test := range []struct {
		flow   bpf.DatapathFlow
		target *bpf.DatapathInterface
		want   []uint16
	}{
		{bpf.DatapathFlow{Gateway: 3}, target, nil},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, nil, []uint16{3}},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, new(bpf.DatapathInterface), []uint16{3}},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, target, []uint16{3, 6}},
		{bpf.DatapathFlow{Flags: byGateway, Tuple: bpf.DatapathTuple{Peer: v4}}, target, []uint16{4}},
		{bpf.DatapathFlow{Flags: byGateway, Tuple: bpf.DatapathTuple{Peer: v4}}, &partial, []uint16{}},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, &partial, []uint16{3, 6}},
	} {
		if got := GatewaysOf(&test.flow, test.target); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v, want %v", test.flow, got, test.want)
		}
	}
}
