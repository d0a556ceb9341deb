// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Tables is what the flow tables hold.
type Tables struct {
	HalfOpen       Flows
	Established    Flows
	Connectionless Flows
	Outbound       map[uint64]uint32 // by digest: ticks of what the host sent
	Marks          map[uint64]bool   // by Cut of the digest: of tuples that are no flow
}

// Flows are what one flow table holds.
type Flows = map[bpf.DatapathTuple]bpf.DatapathFlow

// NewTables are empty ones.
func NewTables() *Tables {
	return &Tables{make(Flows), make(Flows), make(Flows), make(map[uint64]uint32), make(map[uint64]bool)}
}

// Counts is what the datapath has counted, on all CPUs together.
type Counts struct {
	Events map[bpf.DatapathEvent]uint64
	Pairs  map[bpf.DatapathPair]bpf.DatapathPairCount
}

// Tables reads the table.
func (d *Datapath) Tables() (*Tables, error) {
	t := NewTables()
	notes, err := d.Notes()
	for digest, note := range notes {
		t.Outbound[digest] = note.Sent
	}
	return t, errors.Join(err, d.ReadFlows(t), d.readMarks(t))
}

// ReadFlows reads all of the flows but when a packet left last, which nothing depends on. The place of each has to say what
// src/table.h has for it, and no tuple has two in a table.
func (d *Datapath) ReadFlows(t *Tables) error {
	errs := []error{d.Places.Read()}
	flows := map[*bpf.FlowTable]Flows{d.HalfOpen: t.HalfOpen, d.Established: t.Established, d.Connectionless: t.Connectionless}
	for i, place := range d.Places.Elements {
		kind := kindAt(place)
		if kind == bpf.DatapathKindKIND_FREE || kind == bpf.DatapathKindKIND_MARK || kind == bpf.DatapathKindKIND_NOTE || isRecord(kind) {
			continue
		}
		var flow bpf.DatapathFlow
		memory := unsafe.Slice((*byte)(unsafe.Pointer(&flow)), unsafe.Sizeof(flow))
		if _, err := d.cells.ReadAt(memory, int64(i)*int64(len(memory))); err != nil {
			return fmt.Errorf("read cell %d: %w", i, err)
		}
		flow.Left = 0
		belongs := false
		for table, of := range flows {
			if table.KindOf(&flow) == kind {
				_, twice := of[flow.Tuple]
				belongs = !twice
				of[flow.Tuple] = flow
			}
		}
		if !belongs || Misplaced(i, kind) {
			errs = append(errs, fmt.Errorf("in place %d, %#x, where it does not belong: %+v", i, place, flow))
		}
	}
	return errors.Join(errs...)
}

// Misplaced tells whether the last place of a bucket has what was validated: is_misplaced() in bpf/src/table.h.
func Misplaced(place int, kind bpf.DatapathKind) bool {
	isValidated := kind == bpf.DatapathKindKIND_CLOSING || kind >= bpf.DatapathKindKIND_RECORD
	return isValidated && place%int(placesOfBucket) >= int(bpf.DatapathPlacePLACES_VALIDATED)
}

func kindAt(place uint64) bpf.DatapathKind {
	return bpf.DatapathKind(place >> bpf.DatapathPlacePLACE_KIND_SHIFT & 15)
}

const (
	keyShift       = bpf.DatapathPlacePLACE_KEY_SHIFT
	placesOfBucket = uint64(bpf.DatapathPlacePLACES)
)

// Cut is what a bucket and its places tell of a digest.
func (d *Datapath) Cut(digest uint64) uint64 {
	return digest>>keyShift<<keyShift | digest&uint64(2*d.Buckets.MaxEntries()-1)
}

// markKey is by what marks of this generation are known: mark_digest() in bpf/src/negative_cache.h, of 0.
func (d *Datapath) markKey() (uint64, error) {
	var settings bpf.DatapathSettings
	if err := d.Configuration.Get(&settings); err != nil {
		return 0, fmt.Errorf("read settings: %w", err)
	}
	return uint64(settings.Generation*0x7f4a7c15) << 32, nil
}

// readMarks reads those of the present generation; of others it reads nonsense.
func (d *Datapath) readMarks(to *Tables) error {
	key, err := d.markKey()
	if err := errors.Join(err, d.Places.Read()); err != nil {
		return err
	}
	for i, place := range d.Places.Elements {
		if kindAt(place) == bpf.DatapathKindKIND_MARK {
			to.Marks[place>>keyShift<<keyShift^key|uint64(i)/placesOfBucket<<1|1] = true
		}
	}
	return nil
}

// writeMarks has these tuples be marked, beside others.
func (d *Datapath) writeMarks(digests map[uint64]bool) error {
	key, keyErr := d.markKey()
	now, err := d.Now()
	if err := errors.Join(keyErr, err, d.Places.Read()); err != nil {
		return err
	}
	for digest := range digests {
		bucket := d.Places.Elements[digest>>1&uint64(d.Buckets.MaxEntries()-1)*placesOfBucket:][:placesOfBucket]
		free := slices.IndexFunc(bucket, func(place uint64) bool { return kindAt(place) == bpf.DatapathKindKIND_FREE })
		if free < 0 {
			return errors.New("there is no room for a mark")
		}
		bucket[free] |= (digest^key)>>keyShift<<keyShift | uint64(bpf.DatapathKindKIND_MARK)<<bpf.DatapathPlacePLACE_KIND_SHIFT |
			uint64(now>>bpf.DatapathPlacePLACE_STAMP_SHIFT)&(uint64(bpf.DatapathPlacePLACE_SPILLED)-1)
	}
	return d.Places.Write()
}

func isRecord(kind bpf.DatapathKind) bool {
	return kind == bpf.DatapathKindKIND_ASKER || kind == bpf.DatapathKindKIND_COMER || kind == bpf.DatapathKindKIND_RECORD
}

// forget frees the places of these kinds.
func (d *Datapath) forget(kinds ...bpf.DatapathKind) error {
	return d.forgetAll(func(kind bpf.DatapathKind) bool { return slices.Contains(kinds, kind) })
}

func (d *Datapath) forgetAll(isIt func(bpf.DatapathKind) bool) error {
	if err := d.Places.Read(); err != nil {
		return err
	}
	for i, place := range d.Places.Elements {
		if isIt(kindAt(place)) {
			d.Places.Elements[i] = place & uint64(bpf.DatapathPlacePLACE_SPILLED)
		}
	}
	return d.Places.Write()
}

// ForgetTable empties the table, and what leads to it by addresses.
func (d *Datapath) ForgetTable() error { return errors.Join(d.Places.Clear(), d.Begun.Clear()) }

// ForgetMarks empties the negative cache.
func (d *Datapath) ForgetMarks() error { return d.forget(bpf.DatapathKindKIND_MARK) }

// Leads are those of some kinds, of all if none is named, by their keys.
func (d *Datapath) Leads(kinds ...bpf.DatapathLeadKind) (map[uint64]bpf.DatapathLead, error) {
	all, err := readHash[bpf.DatapathLead](d.DatapathMaps.Leads)
	maps.DeleteFunc(all, func(key uint64, _ bpf.DatapathLead) bool {
		kind := bpf.DatapathLeadKind(key) % bpf.DatapathLeadKindLEAD_KINDS
		return len(kinds) > 0 && !slices.Contains(kinds, kind)
	})
	return all, err
}

// ChangeLeads changes those of some kinds, of all if none is named.
func (d *Datapath) ChangeLeads(change func(*bpf.DatapathLead), kinds ...bpf.DatapathLeadKind) error {
	known, err := d.Leads(kinds...)
	for key, lead := range known {
		change(&lead)
		err = errors.Join(err, put(d.DatapathMaps.Leads, key, lead))
	}
	return err
}

// ForgetLeads deletes those of some kinds, of all if none is named.
func (d *Datapath) ForgetLeads(kinds ...bpf.DatapathLeadKind) error {
	known, err := d.Leads(kinds...)
	for key := range known {
		err = errors.Join(err, d.DatapathMaps.Leads.Delete(key))
	}
	return err
}

// readHash reads all of a map whose keys are digests.
func readHash[V any](m *ebpf.Map) (map[uint64]V, error) {
	entries := make(map[uint64]V)
	return entries, each(m, func(digest uint64, value V) { entries[digest] = value })
}

// SetTables replaces the content of the table, but for records.
func (d *Datapath) SetTables(t *Tables) error {
	err := errors.Join(d.forgetAll(func(kind bpf.DatapathKind) bool { return !isRecord(kind) }), d.ForgetLeads(bpf.DatapathLeadKindLEAD_PARTS), d.writeMarks(t.Marks))
	for table, flows := range map[*bpf.FlowTable]Flows{d.HalfOpen: t.HalfOpen, d.Established: t.Established, d.Connectionless: t.Connectionless} {
		for tuple, flow := range flows {
			err = errors.Join(err, table.Put(d.Seeds.Digest(tuple), &flow))
		}
	}
	for digest, ticks := range t.Outbound {
		err = errors.Join(err, d.Outbound.Put(&bpf.DatapathNote{Digest: digest, Sent: ticks}))
	}
	return err
}

// Counts reads the counters that are not 0.
func (d *Datapath) Counts() (Counts, error) {
	pairs := make(map[bpf.DatapathPair]bpf.DatapathPairCount)
	addPair := func(pair bpf.DatapathPair, counts []bpf.DatapathPairCount) {
		for _, c := range counts {
			sum := pairs[pair]
			pairs[pair] = bpf.DatapathPairCount{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes, Flows: sum.Flows + c.Flows}
		}
	}
	events, err := d.EventCounts()
	return Counts{events, pairs}, errors.Join(
		err,
		each(d.Pairs, addPair),
		d.EachPairSlot(func(s *bpf.DatapathPairSlot) { addPair(s.Pair, []bpf.DatapathPairCount{s.Count}) }),
	)
}

// EventCounts reads all events, on all CPUs together.
func (d *Datapath) EventCounts() (map[bpf.DatapathEvent]uint64, error) {
	events := make(map[bpf.DatapathEvent]uint64)
	return events, eachElement(d.Events, func(event uint32, cpus []uint64) {
		for _, count := range cpus {
			if count != 0 {
				events[bpf.DatapathEvent(event)] += count
			}
		}
	})
}

// each calls f for every entry of a map.
func each[K, V any](m *ebpf.Map, f func(K, V)) error {
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		f(key, value)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read %s: %w", m, err)
	}
	return nil
}

// eachElement calls f for every element of a per-CPU array, which is read by one
// system call where the kernel can do that.
func eachElement[V any](m *ebpf.Map, f func(index uint32, cpus []V)) error {
	cpus := ebpf.MustPossibleCPU()
	keys := make([]uint32, m.MaxEntries())
	values := make([]V, int(m.MaxEntries())*cpus)
	var cursor ebpf.MapBatchCursor
	count, err := m.BatchLookup(&cursor, keys, values, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return each(m, f)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // all were read
		return fmt.Errorf("read %s: %w", m, err)
	}
	for i, index := range keys[:count] {
		f(index, values[i*cpus:(i+1)*cpus])
	}
	return nil
}

// Clear empties all maps.
func (d *Datapath) Clear() error {
	var errs []error
	for _, undo := range d.undo {
		errs = append(errs, undo())
	}
	d.undo = nil
	return errors.Join(append(errs,
		d.ForgetTable(),
		d.ForgetWays(),
		deleteAll[bpf.DatapathPrefixKey, uint32](d.Prefixes),
		deleteAll[[16]byte, uint32](d.OwnAddresses),
		deleteAll[bpf.DatapathPair, []bpf.DatapathPairCount](d.Pairs),
		d.EachPairSlot(func(s *bpf.DatapathPairSlot) { *s = bpf.DatapathPairSlot{} }),
		d.ModeByHand.Set(uint32(0)),
		zero(d.Events, func(count uint64) bool { return count != 0 }),
		d.ForgetScratch(),
		d.TraceFilter.Set(bpf.DatapathTraceRequest{}),
		d.ForgetLeads(),
		d.Grace.Set(uint32(0)),
	)...)
}

// Notes reads who spoke first, by digest.
func (d *Datapath) Notes() (map[uint64]bpf.DatapathNote, error) {
	notes := make(map[uint64]bpf.DatapathNote)
	return notes, d.Outbound.Each(func(note *bpf.DatapathNote) { notes[note.Digest] = *note })
}

// ForgetNotes empties what is known of who spoke first.
func (d *Datapath) ForgetNotes() error { return d.forget(bpf.DatapathKindKIND_NOTE) }

// ForgetWays empties what was learnt from handshakes, and by which way those began that were not answered.
func (d *Datapath) ForgetWays() error {
	return errors.Join(deleteAll[bpf.DatapathSender, bpf.DatapathLearnt](d.Ways),
		deleteAll[bpf.DatapathSender, bpf.DatapathBegun](d.BegunBy))
}

// LearntWays reads what was learnt.
func (d *Datapath) LearntWays() (map[bpf.DatapathSender]bpf.DatapathLearnt, error) {
	ways := make(map[bpf.DatapathSender]bpf.DatapathLearnt)
	return ways, each(d.Ways, func(sender bpf.DatapathSender, learnt bpf.DatapathLearnt) { ways[sender] = learnt })
}

// BegunWays reads by which way handshakes began that were not answered.
func (d *Datapath) BegunWays() (map[bpf.DatapathSender]bpf.DatapathBegun, error) {
	ways := make(map[bpf.DatapathSender]bpf.DatapathBegun)
	return ways, each(d.BegunBy, func(sender bpf.DatapathSender, begun bpf.DatapathBegun) { ways[sender] = begun })
}

// deleteAll empties a hash map.
func deleteAll[K, V any](m *ebpf.Map) error {
	var keys []K
	err := each(m, func(key K, _ V) { keys = append(keys, key) })
	for _, key := range keys {
		err = errors.Join(err, m.Delete(key))
	}
	return err
}

// zero writes zeros over the used elements of a per-CPU array.
func zero[V any](m *ebpf.Map, used func(V) bool) error {
	var dirty []uint32
	err := eachElement(m, func(index uint32, cpus []V) {
		if slices.ContainsFunc(cpus, used) {
			dirty = append(dirty, index)
		}
	})
	for _, index := range dirty {
		err = errors.Join(err, put(m, index, make([]V, ebpf.MustPossibleCPU())))
	}
	return err
}

// ReadScratch reads the memory of every CPU.
func (d *Datapath) ReadScratch() ([]bpf.DatapathScratch, error) {
	cpus := make([]bpf.DatapathScratch, ebpf.MustPossibleCPU())
	if _, err := d.scratch.ReadAt(bytesOf(cpus), 0); err != nil {
		return nil, fmt.Errorf("read the scratch memory: %w", err)
	}
	return cpus, nil
}

func bytesOf(cpus []bpf.DatapathScratch) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&cpus[0])), uintptr(len(cpus))*unsafe.Sizeof(cpus[0]))
}

// ChangeScratch changes the memory of every CPU.
func (d *Datapath) ChangeScratch(change func(*bpf.DatapathScratch)) error {
	cpus, err := d.ReadScratch()
	if err != nil {
		return err
	}
	for i := range cpus {
		change(&cpus[i])
	}
	if _, err := d.scratch.WriteAt(bytesOf(cpus), 0); err != nil {
		return fmt.Errorf("write the scratch memory: %w", err)
	}
	return nil
}

// ForgetSelves has the programs ask again what own addresses are.
func (d *Datapath) ForgetSelves() error {
	return d.ChangeScratch(func(s *bpf.DatapathScratch) { clear(s.Selves[:]) })
}

// ForgetScratch has nothing be on its way to a target either.
func (d *Datapath) ForgetScratch() error {
	return d.ChangeScratch(func(s *bpf.DatapathScratch) { *s = bpf.DatapathScratch{} })
}
