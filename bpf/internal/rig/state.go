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
	Marks          map[uint64]bool   // by digest: of tuples that are no flow
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

// Tables reads the flow tables.
func (d *Datapath) Tables() (*Tables, error) {
	t := NewTables()
	return t, errors.Join(
		d.ReadFlows(t),
		each(d.Outbound, func(digest uint64, note bpf.DatapathNote) { t.Outbound[digest] = note.Sent }),
		d.readMarks(t),
	)
}

// ReadFlows reads all of the flows but when a packet left last, which nothing depends on. Each has to be in the map that
// src/table.h has for it, and in no other.
func (d *Datapath) ReadFlows(t *Tables) error {
	var errs []error
	read := func(m *ebpf.Map, of func(isEnded, isClosing, isAssured bool) Flows) {
		errs = append(errs, each(m, func(digest uint64, flow bpf.DatapathFlow) {
			flow.Left = 0
			flows := of(digest&1 == 0, flow.IsClosing(), flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_ASSURED) != 0)
			if _, twice := flows[flow.Tuple]; flows == nil || twice {
				errs = append(errs, fmt.Errorf("in %s under %#x, where it does not belong: %+v", m, digest, flow))
				return
			}
			flows[flow.Tuple] = flow
		}))
	}
	read(d.DatapathMaps.HalfOpen, func(isEnded, isClosing, _ bool) Flows {
		switch {
		case isEnded && isClosing:
			return t.Established
		case isEnded:
			return nil
		}
		return t.HalfOpen
	})
	only := func(flows Flows, belongs bool) Flows {
		if belongs {
			return flows
		}
		return nil
	}
	read(d.DatapathMaps.Established, func(isEnded, isClosing, _ bool) Flows { return only(t.Established, !isEnded && !isClosing) })
	read(d.DatapathMaps.Connectionless, func(isEnded, _, isAssured bool) Flows { return only(t.Connectionless, !isEnded && !isAssured) })
	read(d.Assured, func(isEnded, _, isAssured bool) Flows { return only(t.Connectionless, !isEnded && isAssured) })
	return errors.Join(errs...)
}

// readMarks reads those that are valid now, through a mapping: there are too many
// for system calls.
func (d *Datapath) readMarks(to *Tables) error {
	present, err := d.Mark(0)
	if err := errors.Join(err, d.MarkView.Read()); err != nil {
		return err
	}
	for _, mark := range d.MarkView.Elements {
		if digest := mark ^ present; mark != 0 && digest%2 == 1 { // those of addresses are even
			to.Marks[digest] = true
		}
	}
	return nil
}

// Mark is how a digest is marked now (put_mark() in bpf/src/negative_cache.h).
func (d *Datapath) Mark(digest uint64) (uint64, error) {
	now, err := d.Now()
	if err != nil {
		return 0, err
	}
	var settings bpf.DatapathSettings
	if err := d.Configuration.Get(&settings); err != nil {
		return 0, fmt.Errorf("read settings: %w", err)
	}
	return digest ^ uint64(now>>10)<<32 ^ uint64(settings.Generation), nil
}

// writeMarks has these tuples be marked, and nothing else.
func (d *Datapath) writeMarks(digests map[uint64]bool) error {
	present, err := d.Mark(0)
	clear(d.MarkView.Elements)
	for digest := range digests {
		d.MarkView.Elements[digest>>1%uint64(len(d.MarkView.Elements))] = digest ^ present
	}
	return errors.Join(err, d.MarkView.Write())
}

// ForgetMarks empties the negative cache.
func (d *Datapath) ForgetMarks() error { return d.MarkView.Clear() }

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

// SetTables replaces the content of the flow tables, and the marks.
func (d *Datapath) SetTables(t *Tables) error {
	err := errors.Join(d.ForgetNotes(), d.ForgetFlows(), d.ForgetLeads(bpf.DatapathLeadKindLEAD_PARTS), d.writeMarks(t.Marks))
	for table, flows := range map[*bpf.FlowTable]Flows{d.HalfOpen: t.HalfOpen, d.Established: t.Established, d.Connectionless: t.Connectionless} {
		for tuple, flow := range flows {
			err = errors.Join(err, table.Put(d.Seeds.Digest(tuple), &flow))
		}
	}
	for digest, ticks := range t.Outbound {
		err = errors.Join(err, put(d.Outbound, digest, bpf.DatapathNote{Sent: ticks}))
	}
	return err
}

// ForgetFlows empties the flow tables.
func (d *Datapath) ForgetFlows() error {
	m := &d.DatapathMaps
	var errs []error
	for _, part := range []*ebpf.Map{m.HalfOpen, m.Established, m.Connectionless, m.Assured} {
		errs = append(errs, deleteAll[uint64, bpf.DatapathFlow](part))
	}
	return errors.Join(errs...)
}

// Counts reads the counters that are not 0.
func (d *Datapath) Counts() (Counts, error) {
	pairs := make(map[bpf.DatapathPair]bpf.DatapathPairCount)
	addPair := func(pair bpf.DatapathPair, cpus []bpf.DatapathPairCount) {
		for _, c := range cpus {
			sum := pairs[pair]
			pairs[pair] = bpf.DatapathPairCount{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes, Flows: sum.Flows + c.Flows}
		}
	}
	events, err := d.EventCounts()
	return Counts{events, pairs}, errors.Join(
		err,
		each(d.Pairs, addPair),
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
		d.ForgetNotes(),
		d.ForgetWays(),
		d.ForgetFlows(),
		deleteAll[bpf.DatapathPrefixKey, uint32](d.Prefixes),
		deleteAll[[16]byte, uint32](d.OwnAddresses),
		deleteAll[bpf.DatapathPair, []bpf.DatapathPairCount](d.Pairs),
		d.ForgetRelated(),
		d.ModeByHand.Set(uint32(0)),
		zero(d.Events, func(count uint64) bool { return count != 0 }),
		d.ForgetScratch(),
		d.TraceFilter.Set(bpf.DatapathTraceRequest{}),
		d.ForgetLeads(),
		d.ForgetMarks(),
		d.Grace.Set(uint32(0)),
	)...)
}

// Notes reads who spoke first, by digest.
func (d *Datapath) Notes() (map[uint64]bpf.DatapathNote, error) {
	return readHash[bpf.DatapathNote](d.Outbound)
}

// ForgetNotes empties what is known of who spoke first.
func (d *Datapath) ForgetNotes() error { return deleteAll[uint64, bpf.DatapathNote](d.Outbound) }

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
