// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Tables is what the flow tables hold.
type Tables struct {
	HalfOpen       map[bpf.DatapathTuple]bpf.DatapathFlow
	Established    map[bpf.DatapathTuple]bpf.DatapathFlow
	Connectionless map[bpf.DatapathTuple]bpf.DatapathFlow
	Outbound       map[uint64]uint32 // by digest: ticks of what the host sent
	Marks          map[uint64]bool   // by digest: of tuples that are no flow
}

// NewTables are empty ones.
func NewTables() *Tables {
	flows := func() map[bpf.DatapathTuple]bpf.DatapathFlow { return make(map[bpf.DatapathTuple]bpf.DatapathFlow) }
	return &Tables{flows(), flows(), flows(), make(map[uint64]uint32), make(map[uint64]bool)}
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
		readFlows(d.HalfOpen, t.HalfOpen),
		readFlows(d.Established, t.Established),
		readFlows(d.Connectionless, t.Connectionless),
		each(d.Outbound, func(digest uint64, note bpf.DatapathNote) { t.Outbound[digest] = note.Sent }),
		d.readMarks(t),
	)
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
	if err := d.Configuration.Lookup(uint32(0), &settings); err != nil {
		return 0, fmt.Errorf("read settings: %w", err)
	}
	return digest ^ uint64(now>>10)<<32 ^ uint64(settings.Generation), nil
}

// writeMarks has these tuples be marked, and nothing else.
func (d *Datapath) writeMarks(t *Tables) error {
	present, err := d.Mark(0)
	clear(d.MarkView.Elements)
	for digest := range t.Marks {
		d.MarkView.Elements[digest>>1%uint64(len(d.MarkView.Elements))] = digest ^ present
	}
	return errors.Join(err, d.MarkView.Write())
}

// ForgetMarks empties the negative cache.
func (d *Datapath) ForgetMarks() error { return d.MarkView.Clear() }

// AddressDigest is address_digest() in bpf/src/negative_cache.h: of an address and an interface.
func (d *Datapath) AddressDigest(address netip.Addr, ifindex uint32) uint64 {
	var ports [4]byte // which the interface takes the place of
	binary.NativeEndian.PutUint32(ports[:], ifindex)
	return d.Seeds.Digest(bpf.DatapathTuple{Self: address.As16(),
		PeerPort: binary.NativeEndian.Uint16(ports[:]), SelfPort: binary.NativeEndian.Uint16(ports[2:])}) &^ 1
}

// AgeFragments makes what is known of fragments older by these ticks.
func (d *Datapath) AgeFragments(ticks uint32) error {
	known, err := d.KnownFragments()
	for key, fragment := range known {
		fragment.Seen -= ticks
		err = errors.Join(err, put(d.DatapathMaps.Fragments, key, fragment))
	}
	return err
}

// KnownFragments are the first fragments of packets, by the key of the packet.
func (d *Datapath) KnownFragments() (map[uint64]bpf.DatapathFragment, error) {
	return readHash[bpf.DatapathFragment](d.DatapathMaps.Fragments)
}

// ForgetFragments empties what is known of fragments.
func (d *Datapath) ForgetFragments() error {
	return deleteAll[uint64, bpf.DatapathFragment](d.DatapathMaps.Fragments)
}

// AskedBy reads by which flow each peer asked last, all by digest.
func (d *Datapath) AskedBy() (map[uint64]uint64, error) { return readHash[uint64](d.Asked) }

// ForgetAsked empties what is known of who asked.
func (d *Datapath) ForgetAsked() error { return deleteAll[uint64, uint64](d.Asked) }

// readHash reads all of a map whose keys are digests.
func readHash[V any](m *ebpf.Map) (map[uint64]V, error) {
	entries := make(map[uint64]V)
	return entries, each(m, func(digest uint64, value V) { entries[digest] = value })
}

// readFlows reads all of the flows but when a packet left last, which nothing depends on: see Left.
func readFlows(table *Table, flows map[bpf.DatapathTuple]bpf.DatapathFlow) error {
	return table.Each(func(_ uint32, set bpf.DatapathFlowSet) {
		for way, digest := range set.Digest {
			if digest != 0 {
				flow := set.Flow[way]
				flow.Left = 0
				flows[flow.Tuple] = flow
			}
		}
	})
}

// Left reads when the last packet of the only flow of a table left.
func (d *Datapath) Left(table *Table) (left uint32, err error) {
	err = table.Each(func(_ uint32, set bpf.DatapathFlowSet) { left = set.Flow[0].Left })
	return left, err
}

// SetTables replaces the content of the flow tables, which must have one set
// only (see Options), and the marks.
func (d *Datapath) SetTables(t *Tables) error {
	err := errors.Join(
		d.ForgetNotes(),
		d.writeFlows(d.HalfOpen, t.HalfOpen),
		d.writeFlows(d.Established, t.Established),
		d.writeFlows(d.Connectionless, t.Connectionless),
		d.ForgetFragments(),
		d.writeMarks(t),
	)
	for digest, ticks := range t.Outbound {
		err = errors.Join(err, put(d.Outbound, digest, bpf.DatapathNote{Sent: ticks}))
	}
	return err
}

func (d *Datapath) writeFlows(table *Table, flows map[bpf.DatapathTuple]bpf.DatapathFlow) error {
	if table.At(0) >= table.Flows.MaxEntries() && len(flows) == 0 {
		return nil // Options.Change left no set
	}
	var set bpf.DatapathFlowSet
	var way int
	for tuple, flow := range flows {
		set.Digest[way], set.Flow[way] = d.Seeds.Digest(tuple), flow
		way++
	}
	return errors.Join(table.Put(0, set), table.PutTags(0, bpf.Tags(set.Digest)))
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
		zeroSets[bpf.DatapathFlowSet](d.DatapathMaps.Flows),
		zeroSets[uint64](d.DatapathMaps.Tags),
		deleteAll[bpf.DatapathGatewayMac, uint32](d.GatewayMacs),
		deleteAll[bpf.DatapathPrefixKey, uint32](d.Prefixes),
		deleteAll[bpf.DatapathAddress, uint32](d.OwnAddresses),
		deleteAll[bpf.DatapathPair, []bpf.DatapathPairCount](d.Pairs),
		d.ForgetRelated(),
		put(d.ModeByHand, uint32(0), uint32(0)),
		zero(d.Events, func(count uint64) bool { return count != 0 }),
		d.ForgetScratch(),
		put(d.TraceFilter, uint32(0), bpf.DatapathTraceRequest{}),
		d.ForgetFragments(),
		d.ForgetMarks(),
		put(d.Grace, uint32(0), uint32(0)),
	)...)
}

// Notes reads who spoke first, by digest.
func (d *Datapath) Notes() (map[uint64]bpf.DatapathNote, error) {
	return readHash[bpf.DatapathNote](d.Outbound)
}

// ForgetNotes empties what is known of who spoke first.
func (d *Datapath) ForgetNotes() error { return deleteAll[uint64, bpf.DatapathNote](d.Outbound) }

// deleteAll empties a hash map.
func deleteAll[K, V any](m *ebpf.Map) error {
	var keys []K
	err := each(m, func(key K, _ V) { keys = append(keys, key) })
	for _, key := range keys {
		err = errors.Join(err, m.Delete(key))
	}
	return err
}

// zeroSets writes zeros over every element of an array of sets.
func zeroSets[V any](m *ebpf.Map) (err error) {
	var zero V
	for index := range m.MaxEntries() {
		err = errors.Join(err, put(m, index, zero))
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

// ChangeScratch changes the memory of every CPU.
func (d *Datapath) ChangeScratch(change func(*bpf.DatapathScratch)) error {
	var cpus []bpf.DatapathScratch
	if err := d.Scratch.Lookup(uint32(0), &cpus); err != nil {
		return fmt.Errorf("read the scratch memory: %w", err)
	}
	for i := range cpus {
		change(&cpus[i])
	}
	return put(d.Scratch, uint32(0), cpus)
}

// ForgetSources has the programs ask again which interface has a source.
func (d *Datapath) ForgetSources() error {
	return d.ChangeScratch(func(s *bpf.DatapathScratch) { clear(s.Sources[:]) })
}

// ForgetScratch has nothing be on its way to a target either.
func (d *Datapath) ForgetScratch() error {
	return d.ChangeScratch(func(s *bpf.DatapathScratch) { *s = bpf.DatapathScratch{} })
}
