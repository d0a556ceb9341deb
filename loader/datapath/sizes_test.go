// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/test/await"
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

// A table that is too small for all keeps the flows that matter more, whatever comes first.
func TestCopyToASmallTable(t *testing.T) {
	const inUse = 200
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	assured := bpf.DatapathFlow{Flags: uint16(bpf.DatapathFlowFlagsFLOW_ASSURED)}
	closing := bpf.DatapathFlow{State: uint8(bpf.DatapathFlowStateFLOW_CLOSING)}
	stray := bpf.DatapathFlow{Flags: uint16(bpf.DatapathFlowFlagsFLOW_STRAY)}
	young := bpf.DatapathFlow{Seen: 1 << 20}
	for _, kinds := range [...]struct {
		id          bpf.DatapathTable
		kept, other bpf.DatapathFlow
	}{
		{id: bpf.DatapathTableTABLE_HALF_OPEN, other: stray}, {id: bpf.DatapathTableTABLE_ESTABLISHED, other: closing},
		{id: bpf.DatapathTableTABLE_CONNECTIONLESS, kept: assured}, {id: bpf.DatapathTableTABLE_ESTABLISHED, kept: young},
	} {
		d := &Datapath{opts: Options{Seeds: seeds}, maps: &mapSet{all: newTables(t, 2*inUse), replaced: newTables(t, 64*inUse)}}
		from, to := bpf.FlowTables(TableMaps(d.maps.replaced))[kinds.id], bpf.FlowTables(TableMaps(d.maps.all))[kinds.id]
		for n := range 10 * inUse {
			flow := kinds.other
			if n%10 == 0 {
				flow = kinds.kept
			}
			flow.Tuple = tuple(n)
			await.Must(t, from.Put(seeds.Digest(flow.Tuple), &flow))
		}
		await.Must(t, d.copyFlows(isAny))
		kept := 0
		await.Must(t, to.Each(func(_ uint64, flow *bpf.DatapathFlow) bool {
			found, err := to.Find(seeds.Digest(flow.Tuple))
			if await.Must(t, err); found == nil || *found != *flow {
				t.Errorf("%+v is not found", flow)
			}
			if flow.Tuple = (bpf.DatapathTuple{}); *flow == kinds.kept {
				kept++
			}
			return true
		}))
		await.Same(t, TableName(to.ID)+": flows in use that were kept beside others", inUse, kept)
	}
}

// What closed while the tables were replaced is entered as closing, and nothing else takes the place of what is known.
func TestIsMissed(t *testing.T) {
	table := bpf.FlowTables(TableMaps(newTables(t, 1)))[bpf.DatapathTableTABLE_ESTABLISHED]
	open, another := bpf.DatapathFlow{Created: 7}, bpf.DatapathFlow{Created: 8, State: uint8(bpf.DatapathFlowStateFLOW_CLOSING)}
	closed := another
	closed.Created = open.Created
	const digest = 5
	for _, test := range []struct{ known, flow *bpf.DatapathFlow }{{nil, &open}, {nil, &closed}, {&open, &closed}, {&open, &open}, {&open, &another}, {&closed, &open}} {
		await.Must(t, table.Clear())
		if test.known != nil {
			await.Must(t, table.Put(digest, test.known))
		}
		want := test.known == nil || test.known == &open && test.flow == &closed
		missed, err := isMissed(&table, digest, test.flow)
		if await.Must(t, err); missed != want {
			t.Errorf("known %+v, recorded %+v: missed %t", test.known, test.flow, missed)
		}
	}
}

// newTables returns the maps of a table for so many flows.
func newTables(t *testing.T, flows uint32) map[string]*ebpf.Map {
	t.Helper()
	all := make(map[string]*ebpf.Map)
	for name, entries := range sizes(flows) {
		all[name] = newMap(t, name, entries)
	}
	return all
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

// What the host began, and by which paths peers come, is known in a table of another size as well.
func TestCopyRest(t *testing.T) {
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	d := &Datapath{maps: &mapSet{all: newTables(t, 1<<13), replaced: newTables(t, 1<<12)}, opts: Options{Seeds: seeds}}
	from, to := bpf.Notes{Table: bpf.TableOf(TableMaps(d.maps.replaced))}, bpf.Notes{Table: bpf.TableOf(TableMaps(d.maps.all))}
	records, copied := bpf.Records(from), bpf.Records(to)
	recordOf := func(n uint64) (ends uint64, record bpf.DatapathRecord) {
		record = bpf.DatapathRecord{Peer: [16]uint8{14: byte(n >> 8), 15: byte(n)}, Moved: n, To: 1, Heard: uint32(n) + 1}
		return d.opts.Seeds.Ends(bpf.DatapathTuple{Peer: record.Peer}), record
	}
	const count = 500
	for n := range uint64(count) {
		await.Must(t, from.Put(&bpf.DatapathNote{Digest: n<<32 | n<<1 | 1, Sent: uint32(n) + 1, Heard: uint32(n)}))
		ends, record := recordOf(n)
		await.Must(t, records.Put(ends, &record))
	}
	await.Must(t, d.copyRest())
	for n := range uint64(count) {
		ends, want := recordOf(n)
		record, err := copied.Find(ends)
		if await.Must(t, err); record == nil || *record != want {
			t.Errorf("record %d became %+v", n, record)
		}
		note, err := to.Find(n<<32 | n<<1 | 1)
		if await.Must(t, err); note == nil || note.Sent != uint32(n)+1 || note.Heard != uint32(n) {
			t.Errorf("note %d became %+v", n, note)
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
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway | uint16(bpf.DatapathFlowFlagsFLOW_LAST_HOP)}, target, nil},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, nil, []uint16{3}},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, new(bpf.DatapathInterface), []uint16{3}},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, target, []uint16{3, 6}},
		{bpf.DatapathFlow{Flags: byGateway, Tuple: bpf.DatapathTuple{Peer: v4}}, target, []uint16{4}},
		{bpf.DatapathFlow{Flags: byGateway, Tuple: bpf.DatapathTuple{Peer: v4}}, &partial, []uint16{}},
		{bpf.DatapathFlow{Gateway: 3, Flags: byGateway}, &partial, []uint16{3, 6}},
	} {
		await.Same(t, fmt.Sprintf("gateways of %+v", test.flow), test.want, GatewaysOf(&test.flow, test.target))
	}
}

// TestMemory: the table takes at most 60 MB by default.
func TestMemory(t *testing.T) {
	const most = 60_000_000
	shapes := (&Options{MaxEntries: config.Default().MaxEntries}).shapes()
	bytes := 0
	for _, name := range flowMaps {
		bytes += int(shapes[name].MaxEntries * shapes[name].ValueSize)
	}
	t.Logf("%d bytes", bytes)
	if bytes > most {
		t.Errorf("more than %d", most)
	}
}
