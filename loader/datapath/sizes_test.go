// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
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

// A table that is too small for all keeps the flows that are in use, whatever comes first.
func TestCopyToASmallTable(t *testing.T) {
	const inUse = 200
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	d := &Datapath{maps: &mapSet{all: make(map[string]*ebpf.Map), replaced: make(map[string]*ebpf.Map)}}
	for name := range sizes(0) {
		d.maps.replaced[name], d.maps.all[name] = newMap(t, name, 64*inUse), newMap(t, name, inUse+bpf.Reserve())
	}
	from, to := FlowTables(d.maps.replaced), FlowTables(d.maps.all)
	for n := range 10 * inUse {
		flow := &bpf.DatapathFlow{Tuple: tuple(n), State: uint8(bpf.DatapathFlowStateFLOW_REPLIED)}
		flow.Tuple.Protocol = 17
		if n%10 != 0 {
			flow.State = 0 // a question
		}
		await.Must(t, from[bpf.DatapathTableTABLE_CONNECTIONLESS].Put(seeds.Digest(flow.Tuple), flow))
	}
	await.Must(t, d.copyAll())
	kept := 0
	await.Must(t, to[bpf.DatapathTableTABLE_CONNECTIONLESS].Each(func(digest uint64, flow *bpf.DatapathFlow) bool {
		if seeds.Digest(flow.Tuple) == digest && !isSpent(flow) {
			kept++
		}
		return true
	}))
	await.Same(t, "flows in use that were kept beside others", inUse, kept)
}

// What closed while the tables were replaced is entered as closing, and nothing else takes the place of what is known.
func TestIsMissed(t *testing.T) {
	all := make(map[string]*ebpf.Map)
	for name := range sizes(0) {
		all[name] = newMap(t, name, 1+bpf.Reserve())
	}
	table := FlowTables(all)[bpf.DatapathTableTABLE_ESTABLISHED]
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
		if left := await.Must1[*bpf.DatapathFlow](t)(table.Find(digest)); want != (left == nil) {
			t.Errorf("known %+v, recorded %+v: %+v is left", test.known, test.flow, left)
		}
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

// What an entry of such a hash takes besides key and value (kernel: struct htab_elem), and each of its buckets, of which there
// is a power of two.
const elementHead, bucket = 48, 16

// TestMemory: what grows with the tables takes at most 200 bytes for each flow that they are meant to hold, notes and all.
func TestMemory(t *testing.T) {
	const most = 200
	memory := func(largest uint32) (bytes, flows uint64) {
		for name, entries := range sizes(largest) {
			shape := bpf.Shapes()[name]
			bytes += uint64(entries)*uint64(shape.KeySize+(shape.ValueSize+7)/8*8+elementHead) + bucket<<bits.Len32(entries-1)
			if name != bpf.DatapathMapOutbound {
				flows += uint64(entries)
			}
		}
		return bytes, flows
	}
	bytes, flows := memory(1 << 18)
	moreBytes, moreFlows := memory(1 << 20)
	each := float64(moreBytes-bytes) / float64(moreFlows-flows)
	t.Logf("%.1f bytes more for each flow of capacity", each)
	if each > most {
		t.Errorf("more than %d", most)
	}
}
