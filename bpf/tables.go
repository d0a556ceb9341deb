// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Ends are the addresses of a tuple, by which the map `originated` knows them.
type Ends struct{ Peer, Self [16]byte }

// FlowTable is one of the flow tables, by digest: src/table.h says which maps have its entries. They are read in the order
// in which entries move.
type FlowTable struct {
	ID    DatapathTable
	parts []part
}

// part is a map that has entries of a table. Those of connections that are closing have even keys: ended_key().
type part struct {
	*ebpf.Map
	ended uint64 // the bit that is taken from a digest: 1 or 0
}

func (p *part) key(digest uint64) uint64 { return digest &^ p.ended }

// FlowTables returns the flow tables, by enum table.
func FlowTables(maps *DatapathMaps) [DatapathTableTABLE_END]FlowTable {
	return [...]FlowTable{
		DatapathTableTABLE_HALF_OPEN:      {DatapathTableTABLE_HALF_OPEN, []part{{maps.HalfOpen, 0}}},
		DatapathTableTABLE_ESTABLISHED:    {DatapathTableTABLE_ESTABLISHED, []part{{maps.Established, 0}, {maps.HalfOpen, 1}}},
		DatapathTableTABLE_CONNECTIONLESS: {DatapathTableTABLE_CONNECTIONLESS, []part{{maps.Connectionless, 0}, {maps.Assured, 0}}},
	}
}

// MaxCPUs is of how many CPUs the programs have working memory.
var MaxCPUs = int(Shapes()[Scratch].ValueSize) / int(unsafe.Sizeof(DatapathScratch{}))

// InterfacePlaces are the places of interfaces in the map `interfaces`. After them comes the entry of no interface.
var InterfacePlaces = Shapes()[DatapathMapInterfaces].MaxEntries - 1

// PlaceOf is where the map `interfaces` has the interface of this index.
func PlaceOf(index int) uint32 { return uint32(index) % InterfacePlaces }

// Reserve is how many entries an LRU hash has free at most: each CPU keeps some (kernel/bpf/bpf_lru_list.c,
// LOCAL_FREE_TARGET).
func Reserve() uint32 { return 128 * uint32(ebpf.MustPossibleCPU()) }

// Capacity returns for how many flows that last there is room.
func (t *FlowTable) Capacity() uint64 {
	most := t.lasting().MaxEntries()
	return uint64(most - min(most, Reserve()))
}

// Lasts tells whether Capacity is for such flows of the table: handshakes, connections that are open, conversations. What
// ended stands among the handshakes, and a datagram that is no conversation apart.
func (t *FlowTable) Lasts(flow *DatapathFlow) bool { return t.partOf(flow) == t.lasting() }

func (t *FlowTable) lasting() *part {
	if t.ID == DatapathTableTABLE_CONNECTIONLESS {
		return &t.parts[1]
	}
	return &t.parts[0]
}

// partOf returns where the table has such a flow: as map_of() in src/table.h.
func (t *FlowTable) partOf(flow *DatapathFlow) *part {
	switch {
	case t.ID == DatapathTableTABLE_ESTABLISHED && flow.IsClosing(),
		t.ID == DatapathTableTABLE_CONNECTIONLESS && flow.Flags&uint16(DatapathFlowFlagsFLOW_ASSURED) != 0:
		return &t.parts[1]
	}
	return &t.parts[0]
}

// Each calls visit for every entry, idle ones included, until it returns false. What is entered or removed meanwhile may be
// seen or not.
func (t *FlowTable) Each(visit func(digest uint64, flow *DatapathFlow) bool) error {
	for _, p := range t.parts {
		most := min(4096, p.MaxEntries()) // by one system call
		keys, flows := make([]uint64, most), make([]DatapathFlow, most)
		var cursor ebpf.MapBatchCursor
		for last := false; !last; {
			count, err := p.BatchLookup(&cursor, keys, flows, nil)
			last = errors.Is(err, ebpf.ErrKeyNotExist)
			if err != nil && !last {
				return fmt.Errorf("read the entries of %s: %w", p, err)
			}
			for i, key := range keys[:count] {
				if digest := key | 1; p.key(digest) == key && !visit(digest, &flows[i]) {
					return nil
				}
			}
		}
	}
	return nil
}

// Find returns the flow with this digest, idle or not, nil for none: as find_digest() in src/table.h.
func (t *FlowTable) Find(digest uint64) (*DatapathFlow, error) {
	for _, p := range t.parts {
		var flow DatapathFlow
		err := p.Lookup(p.key(digest), &flow)
		if err == nil {
			return &flow, nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("look up a flow in %s: %w", p, err)
		}
	}
	return nil, nil
}

// Put enters a flow, or replaces it: as put_flow() in src/table.h.
func (t *FlowTable) Put(digest uint64, flow *DatapathFlow) error {
	p := t.partOf(flow)
	if err := p.Put(p.key(digest), flow); err != nil {
		return fmt.Errorf("enter a flow in %s: %w", p, err)
	}
	return nil
}

// Delete takes out the entries with this digest; without one it does nothing.
func (t *FlowTable) Delete(digest uint64) error {
	var errs []error
	for _, p := range t.parts {
		if err := p.Delete(p.key(digest)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("take a flow out of %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// Clear takes out all.
func (t *FlowTable) Clear() error {
	var digests []uint64
	err := t.Each(func(digest uint64, _ *DatapathFlow) bool {
		digests = append(digests, digest)
		return true
	})
	errs := []error{err}
	for _, digest := range digests {
		errs = append(errs, t.Delete(digest))
	}
	return errors.Join(errs...)
}

// IsClosing tells whether a connection ends: as is_closing() in src/flow.h.
func (f *DatapathFlow) IsClosing() bool {
	return f.State&uint8(DatapathFlowStateFLOW_CLOSING) != 0 || f.Flags&uint16(DatapathFlowFlagsFLOW_RESET) != 0
}
