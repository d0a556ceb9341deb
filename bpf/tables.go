// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Table has all that is known of tuples: see src/table.h.
type Table struct {
	buckets, cells *ebpf.Map
	memory         []byte // of all buckets, within AtOnce
}

// TableOf returns the one of these maps.
func TableOf(maps *DatapathMaps) Table { return Table{buckets: maps.Buckets, cells: maps.Cells} }

// AtOnce calls change with a table whose buckets are mapped meanwhile: to map one takes longer than the rest of a change.
func (t Table) AtOnce(change func(Table) error) (err error) {
	mapErr := mapped(t.buckets, 0, t.buckets.MaxEntries()*bucketSize, func(memory []byte) {
		t.memory = memory
		err = change(t)
	})
	return errors.Join(mapErr, err)
}

// FlowTable is the part of the table that has the flows of an enum table.
type FlowTable struct {
	ID DatapathTable
	Table
}

// FlowTables returns the flow tables, by enum table.
func FlowTables(maps *DatapathMaps) [DatapathTableTABLE_END]FlowTable { return TableOf(maps).Flows() }

// Flows returns the flow tables, by enum table.
func (t Table) Flows() (tables [DatapathTableTABLE_END]FlowTable) {
	for id := range tables {
		tables[id] = FlowTable{DatapathTable(id), t}
	}
	return tables
}

// Notes is the part of the table that says by which tuples the host spoke first: see src/outbound.h.
type Notes struct{ Table }

// Records is the part of the table that says by which paths peers come to own addresses, and what the host originates from
// there: see src/originate.h.
type Records struct{ Table }

// Recent returns where the map `recent` has the last connection with the addresses of which this is the digest, and their last
// question: recent_of() in src/originate.h.
func Recent(ends uint64) [2]uint32 {
	half := Shapes()[DatapathMapRecent].MaxEntries / 2
	place := uint32(ends>>32) & (half - 1)
	return [2]uint32{place, half | place}
}

// ForgetRecent has the map `recent` lead to nothing by the addresses of which this is the digest.
func ForgetRecent(recent *ebpf.Map, ends uint64) error {
	var errs []error
	for _, place := range Recent(ends) {
		errs = append(errs, recent.Put(place, uint64(0)))
	}
	return errors.Join(errs...)
}

// ClearRecent has the map `recent` lead to nothing.
func ClearRecent(recent *ebpf.Map) error {
	return mapped(recent, 0, recent.MaxEntries()*recent.ValueSize(), func(memory []byte) { clear(memory) })
}

// kinds is a bit for each enum kind.
type kinds uint32

func kindsOf(all ...DatapathKind) (of kinds) {
	for _, kind := range all {
		of |= 1 << kind
	}
	return of
}

var (
	flowKinds = [...]kinds{
		DatapathTableTABLE_HALF_OPEN:      kindsOf(DatapathKindKIND_STRAY, DatapathKindKIND_HANDSHAKE),
		DatapathTableTABLE_ESTABLISHED:    kindsOf(DatapathKindKIND_CLOSING, DatapathKindKIND_ESTABLISHED),
		DatapathTableTABLE_CONNECTIONLESS: kindsOf(DatapathKindKIND_QUESTION, DatapathKindKIND_ASSURED),
	}
	noteKinds   = kindsOf(DatapathKindKIND_NOTE)
	recordKinds = kindsOf(DatapathKindKIND_ASKER, DatapathKindKIND_COMER, DatapathKindKIND_RECORD)
	// What the last place of a bucket is not for: is_misplaced() in src/table.h.
	validatedKinds = flowKinds[DatapathTableTABLE_ESTABLISHED] | kindsOf(DatapathKindKIND_ASSURED, DatapathKindKIND_RECORD)
)

// MaxCPUs is of how many CPUs the programs have working memory.
var MaxCPUs = int(Shapes()[Scratch].ValueSize) / int(unsafe.Sizeof(DatapathScratch{}))

// InterfacePlaces are the places of interfaces in the map `interfaces`. After them comes the entry of no interface.
var InterfacePlaces = Shapes()[DatapathMapInterfaces].MaxEntries - 1

// PlaceOf is where the map `interfaces` has the interface of this index.
func PlaceOf(index int) uint32 { return uint32(index) % InterfacePlaces }

// Reserve is how many entries an LRU hash has free at most: each CPU keeps some (kernel/bpf/bpf_lru_list.c,
// LOCAL_FREE_TARGET).
func Reserve() uint32 { return 128 * uint32(ebpf.MustPossibleCPU()) }

// Buckets returns how many buckets have two places for each of so many flows: a power of two, and at least two.
func Buckets(flows uint32) uint32 {
	buckets := uint32(2)
	for buckets*uint32(DatapathPlacePLACES) < 2*flows {
		buckets *= 2
	}
	return buckets
}

// Size has the maps of a table have so many buckets, and the programs know how many.
func Size(spec *ebpf.CollectionSpec, buckets uint32) error {
	spec.Maps[DatapathMapBuckets].MaxEntries = buckets
	spec.Maps[DatapathMapCells].MaxEntries = buckets * uint32(DatapathPlacePLACES)
	return spec.Variables[DatapathVarLastBucket].Set(buckets - 1)
}

// Capacity returns for how many flows that last there is room beside those of the other tables.
func (t *FlowTable) Capacity() uint64 {
	parts := [...]uint64{DatapathTableTABLE_HALF_OPEN: 8, DatapathTableTABLE_ESTABLISHED: 2, DatapathTableTABLE_CONNECTIONLESS: 4}
	return uint64(t.cells.MaxEntries()) / parts[t.ID]
}

// Capacity returns for how many notes there is room beside flows.
func (n *Notes) Capacity() uint64 { return uint64(n.cells.MaxEntries()) / 8 }

// Lasts tells whether Capacity is for such flows of the table: handshakes, connections that are open, conversations.
func (t *FlowTable) Lasts(flow *DatapathFlow) bool {
	kind := t.KindOf(flow)
	return kind != DatapathKindKIND_CLOSING && kind != DatapathKindKIND_QUESTION
}

// KindOf tells what the place of such a flow holds: as kind_of() in src/table.h.
func (t *FlowTable) KindOf(flow *DatapathFlow) DatapathKind {
	flags := DatapathFlowFlags(flow.Flags)
	switch {
	case t.ID == DatapathTableTABLE_CONNECTIONLESS && flags&DatapathFlowFlagsFLOW_ASSURED != 0:
		return DatapathKindKIND_ASSURED
	case t.ID == DatapathTableTABLE_CONNECTIONLESS:
		return DatapathKindKIND_QUESTION
	case t.ID == DatapathTableTABLE_ESTABLISHED && flow.IsClosing():
		return DatapathKindKIND_CLOSING
	case t.ID == DatapathTableTABLE_ESTABLISHED:
		return DatapathKindKIND_ESTABLISHED
	case flags&DatapathFlowFlagsFLOW_STRAY != 0:
		return DatapathKindKIND_STRAY
	}
	return DatapathKindKIND_HANDSHAKE
}

// place is one of a bucket: enum place.
type place uint64

func (p place) kind() DatapathKind { return DatapathKind(p >> DatapathPlacePLACE_KIND_SHIFT & 15) }

// age is how long before another it was written, in stamps.
func (p place) age(other place) uint32 {
	return (uint32(other) - uint32(p)) & (uint32(DatapathPlacePLACE_SPILLED) - 1)
}

func (p place) is(digest uint64) bool { return (uint64(p)^digest)>>DatapathPlacePLACE_KEY_SHIFT == 0 }

// givesWayTo tells whether a place may be another's, that is of a higher kind, or of the same and as young.
func (p place) givesWayTo(other place) bool {
	return p.kind() < other.kind() || p.kind() == other.kind() && p.age(other) < uint32(DatapathPlacePLACE_SPILLED)/2
}

// isOf tells whether a place holds something of these kinds.
func (p place) isOf(of kinds) bool { return of>>p.kind()&1 == 1 }

// bucketsOf returns where a digest may stand: bucket_of() and other_bucket() in src/table.h.
func (t *Table) bucketsOf(digest uint64) [2]uint32 {
	count := t.buckets.MaxEntries()
	home := uint32(digest>>1) & (count - 1)
	return [2]uint32{home, home ^ count/2}
}

const (
	places     = uint32(DatapathPlacePLACES)
	validated  = uint32(DatapathPlacePLACES_VALIDATED) // of these, for what was validated
	atOnce     = 1024                                  // buckets that are mapped at once: whole pages, and few of them
	bucketSize = uint32(unsafe.Sizeof(DatapathBucket{}))
	cellSize   = uint32(unsafe.Sizeof(DatapathFlow{}))
)

// mapped calls use with part of an array's memory. What is mapped counts as the process's, and so it is little.
func mapped(m *ebpf.Map, offset, size uint32, use func(memory []byte)) error {
	page := uint32(unix.Getpagesize())
	begin := offset / page * page
	memory, err := unix.Mmap(m.FD(), int64(begin), int(offset-begin+size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the memory of %s: %w", m, err)
	}
	use(memory[offset-begin:][:size])
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the memory of %s: %w", m, err)
	}
	return nil
}

// at is what stands at an offset of memory.
func at[T any](memory []byte, offset uint32) *T { return (*T)(unsafe.Pointer(&memory[offset])) }

// withBucket calls use with a bucket that programs change meanwhile.
func (t *Table) withBucket(index uint32, use func(*DatapathBucket)) error {
	if t.memory != nil {
		use(at[DatapathBucket](t.memory, index*bucketSize))
		return nil
	}
	return mapped(t.buckets, index*bucketSize, bucketSize, func(memory []byte) { use(at[DatapathBucket](memory, 0)) })
}

// bucket returns a bucket as it is now.
func (t *Table) bucket(index uint32) (bucket DatapathBucket, err error) {
	if t.memory == nil {
		err = t.buckets.Lookup(index, &bucket)
		return bucket, err
	}
	for i := range bucket.Place {
		bucket.Place[i] = atomic.LoadUint64(at[uint64](t.memory, index*bucketSize+uint32(i)*8))
	}
	return bucket, nil
}

// Each calls visit for every entry, idle ones included, until it returns false. Of the digest it gets as much as finds the
// entry again in this table. What is entered or removed meanwhile may be seen or not.
func (t *FlowTable) Each(visit func(digest uint64, flow *DatapathFlow) bool) error {
	return t.each(flowKinds[t.ID], visit)
}

// Each calls visit for every note, old ones included.
func (n *Notes) Each(visit func(note *DatapathNote)) error {
	return n.each(noteKinds, func(_ uint64, cell *DatapathFlow) bool {
		visit((*DatapathNote)(unsafe.Pointer(cell)))
		return true
	})
}

// Each calls visit for every record until it returns false, old ones included.
func (r *Records) Each(visit func(digest uint64, record *DatapathRecord) bool) error {
	return r.each(recordKinds, func(digest uint64, cell *DatapathFlow) bool {
		return visit(digest, (*DatapathRecord)(unsafe.Pointer(cell)))
	})
}

func (t *Table) each(of kinds, visit func(digest uint64, cell *DatapathFlow) bool) error {
	count := t.buckets.MaxEntries()
	for first := uint32(0); first < count; first += atOnce {
		goesOn, err := t.visitPart(of, first, min(atOnce, count-first), visit)
		if err != nil || !goesOn {
			return err
		}
	}
	return nil
}

func (t *Table) visitPart(of kinds, first, count uint32, visit func(uint64, *DatapathFlow) bool) (goesOn bool, err error) {
	goesOn = true
	mapErr := mapped(t.buckets, first*bucketSize, count*bucketSize, func(buckets []byte) {
		var found []uint32
		for i := range count * places {
			if place(atomic.LoadUint64(at[uint64](buckets, i*8))).isOf(of) {
				found = append(found, i)
			}
		}
		err = t.withCells(first*places, count*places, len(found), func(read func(i uint32, to *DatapathFlow) error) (err error) {
			for n := 0; n < len(found) && goesOn && err == nil; n++ {
				goesOn, err = visitPlace(of, at[uint64](buckets, found[n]*8), first, found[n], read, visit)
			}
			return err
		})
	})
	return goesOn, errors.Join(mapErr, err)
}

// visitPlace visits what a place holds, the i-th from a bucket on, unless it is another's by now.
func visitPlace(of kinds, word *uint64, first, i uint32, read func(uint32, *DatapathFlow) error,
	visit func(uint64, *DatapathFlow) bool,
) (goesOn bool, err error) {
	const key = DatapathPlacePLACE_KEY_SHIFT
	var copied DatapathFlow
	p := place(atomic.LoadUint64(word))
	if err := read(i, &copied); err != nil || !p.isOf(of) {
		return true, err
	}
	if now := place(atomic.LoadUint64(word)); !now.isOf(of) || !now.is(uint64(p)) {
		return true, nil
	}
	return visit(uint64(p)>>key<<key|uint64(first+i/places)<<1|1, &copied), nil
}

// withCells calls use with what reads cells from the first on. A few are asked for, as it takes long to map memory.
func (t *Table) withCells(
	first, count uint32, wanted int, use func(read func(i uint32, to *DatapathFlow) error) error,
) (err error) {
	const few = 64
	switch {
	case wanted == 0:
		return nil
	case wanted <= few:
		return use(func(i uint32, to *DatapathFlow) error { return t.cells.Lookup(first+i, to) })
	}
	mapErr := mapped(t.cells, first*cellSize, count*cellSize, func(cells []byte) {
		err = use(func(i uint32, to *DatapathFlow) error { *to = *at[DatapathFlow](cells, i*cellSize); return nil })
	})
	return errors.Join(mapErr, err)
}

// find returns where a digest stands, as the number of a cell; false for nowhere.
func (t *Table) find(digest uint64, of kinds) (cell uint32, found bool, err error) {
	for _, index := range t.bucketsOf(digest) {
		bucket, err := t.bucket(index)
		if err != nil {
			return 0, false, fmt.Errorf("look up a bucket: %w", err)
		}
		for i, p := range bucket.Place {
			if place(p).isOf(of) && place(p).is(digest) {
				return index*places + uint32(i), true, nil
			}
		}
	}
	return 0, false, nil
}

// lookUp returns the cell of a digest, nil for none.
func (t *Table) lookUp(digest uint64, of kinds) (*DatapathFlow, error) {
	cell, found, err := t.find(digest, of)
	if !found {
		return nil, err
	}
	content := new(DatapathFlow)
	if err := t.cells.Lookup(cell, content); err != nil {
		return nil, fmt.Errorf("look up a cell: %w", err)
	}
	return content, nil
}

// Find returns the flow with this digest, idle or not, nil for none: as find_digest() in src/table.h.
func (t *FlowTable) Find(digest uint64) (*DatapathFlow, error) {
	return t.lookUp(digest, flowKinds[t.ID])
}

// Find returns the note of this digest, old or not, nil for none.
func (n *Notes) Find(digest uint64) (*DatapathNote, error) {
	cell, err := n.lookUp(digest, noteKinds)
	return (*DatapathNote)(unsafe.Pointer(cell)), err
}

// Find returns the record of this digest, see Seeds.Ends, nil for none.
func (r *Records) Find(digest uint64) (*DatapathRecord, error) {
	cell, err := r.lookUp(digest, recordKinds)
	return (*DatapathRecord)(unsafe.Pointer(cell)), err
}

// ErrNoRoom says that a table has no place for a flow.
var ErrNoRoom = errors.New("there is no room")

// Put enters a flow, or replaces it: as put_flow() in src/table.h, but for what other CPUs do meanwhile.
func (t *FlowTable) Put(digest uint64, flow *DatapathFlow) error {
	return t.put(digest, flowKinds[t.ID], t.KindOf(flow), flow.Seen, flow)
}

// Put enters a note, or replaces it.
func (n *Notes) Put(note *DatapathNote) error {
	var cell DatapathFlow
	*(*DatapathNote)(unsafe.Pointer(&cell)) = *note
	return n.put(note.Digest, noteKinds, DatapathKindKIND_NOTE, max(note.Sent, note.Heard), &cell)
}

// Put enters a record, or replaces it: as put_record() in src/originate.h.
func (r *Records) Put(digest uint64, record *DatapathRecord) error {
	kind := DatapathKindKIND_ASKER
	switch {
	case record.To != 0 || DatapathProof(record.Proof)&DatapathProofPROOF_ANSWERS != 0:
		kind = DatapathKindKIND_RECORD
	case DatapathProof(record.Proof)&DatapathProofPROOF_CONNECTION != 0:
		kind = DatapathKindKIND_COMER
	}
	var cell DatapathFlow
	*(*DatapathRecord)(unsafe.Pointer(&cell)) = *record
	return r.put(digest, recordKinds, kind, max(record.Seen, record.Heard), &cell)
}

// put enters what was heard of last at some tick.
func (t *Table) put(digest uint64, over kinds, kind DatapathKind, heard uint32, content *DatapathFlow) error {
	const key = DatapathPlacePLACE_KEY_SHIFT
	fresh := place(digest>>key<<key | uint64(kind)<<DatapathPlacePLACE_KIND_SHIFT |
		uint64(heard>>DatapathPlacePLACE_STAMP_SHIFT)&(uint64(DatapathPlacePLACE_SPILLED)-1))
	cell, found, err := t.find(digest, over)
	if err == nil && !found {
		cell, err = t.take(digest, fresh)
	}
	if err == nil {
		err = t.cells.Put(cell, content)
	}
	home := t.bucketsOf(digest)[0]
	if err == nil && cell/places != home {
		err = t.withBucket(home, func(b *DatapathBucket) { atomic.OrUint64(&b.Place[0], uint64(DatapathPlacePLACE_SPILLED)) })
	}
	if err != nil {
		return fmt.Errorf("enter something into the table: %w", err)
	}
	return t.withBucket(cell/places, func(b *DatapathBucket) {
		word := &b.Place[cell%places]
		atomic.StoreUint64(word, uint64(fresh)|*word&uint64(DatapathPlacePLACE_SPILLED))
	})
}

// take takes a place that is given up, so that no program does while its cell is written. Where one has been faster, there is
// no room.
func (t *Table) take(digest uint64, fresh place) (cell uint32, err error) {
	const spilled, kind = place(DatapathPlacePLACE_SPILLED), DatapathPlacePLACE_KIND_SHIFT
	cell, before, err := t.choose(digest, fresh)
	if err != nil {
		return 0, err
	}
	taken := false
	err = t.withBucket(cell/places, func(b *DatapathBucket) {
		during := fresh&^(15<<kind|spilled) | place(DatapathKindKIND_TAKEN)<<kind | before&spilled
		taken = atomic.CompareAndSwapUint64(&b.Place[cell%places], uint64(before), uint64(during))
	})
	if err == nil && !taken {
		err = ErrNoRoom
	}
	return cell, err
}

// choose returns the place that is given up: what is free, else what is of a lower kind, or of the same and older.
func (t *Table) choose(digest uint64, fresh place) (cell uint32, best place, err error) {
	found := false
	for _, index := range t.bucketsOf(digest) {
		bucket, err := t.bucket(index)
		if err != nil {
			return 0, 0, err
		}
		for i := range places {
			if i < validated { // preferred() comes first
				i = (i + uint32(digest>>32&0xffff)*validated>>16) % validated
			}
			p := place(bucket.Place[i])
			isForIt := i < validated || !fresh.isOf(validatedKinds)
			isFirst := !found || p.kind() < best.kind() || p.kind() == best.kind() && p.age(fresh) > best.age(fresh)
			if isForIt && isFirst && p.givesWayTo(fresh) {
				cell, best, found = index*places+i, p, true
			}
		}
		if found && best.kind() < DatapathKindKIND_RECORD {
			return cell, best, nil
		}
	}
	if !found {
		err = ErrNoRoom
	}
	return cell, best, err
}

// Delete takes out the entries with this digest; without one it does nothing.
func (t *FlowTable) Delete(digest uint64) error { return t.delete(digest, flowKinds[t.ID]) }

// Delete takes out the note of this digest; without one it does nothing.
func (n *Notes) Delete(digest uint64) error { return n.delete(digest, noteKinds) }

// Delete takes out the record of this digest; without one it does nothing.
func (r *Records) Delete(digest uint64) error { return r.delete(digest, recordKinds) }

// ForgetPath takes out what has shown by which path the peer comes, and leaves what the host originated.
func (r *Records) ForgetPath(digest uint64) error {
	record, err := r.Find(digest)
	switch {
	case record == nil || record.Proof == 0:
		return err
	case record.To == 0:
		return r.Delete(digest)
	}
	record.Flow, record.Proof, record.Path = 0, 0, DatapathPath{}
	return errors.Join(r.Delete(digest), r.Put(digest, record)) // so that no program has the place meanwhile
}

func (t *Table) delete(digest uint64, of kinds) error {
	var errs []error
	for _, index := range t.bucketsOf(digest) {
		errs = append(errs, t.withBucket(index, func(b *DatapathBucket) {
			for i := range b.Place {
				p := place(atomic.LoadUint64(&b.Place[i]))
				for p.isOf(of) && p.is(digest) { // until no program has renewed it in between
					atomic.CompareAndSwapUint64(&b.Place[i], uint64(p), uint64(p)&uint64(DatapathPlacePLACE_SPILLED))
					p = place(atomic.LoadUint64(&b.Place[i]))
				}
			}
		}))
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
