// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Sets are flow tables that are mapped into memory (see Options): what they hold
// is read and written without a system call for every set.
type Sets struct {
	Flows    [4][]bpf.DatapathFlowSet // in the order of enum table
	Tags     [4][]uint64              // of each set of these
	Outbound []bpf.DatapathOutboundSet

	memory [9]*ebpf.Memory // as bytes has them
}

// MapSets maps the flow tables of a datapath that was loaded for it.
func (d *Datapath) MapSets() (*Sets, error) {
	s := &Sets{}
	for i, m := range []*ebpf.Map{
		d.HalfOpen, d.Established, d.Connectionless, d.Nursery,
		d.HalfOpenTags, d.EstablishedTags, d.ConnectionlessTags, d.NurseryTags,
		d.Outbound,
	} {
		memory, err := m.Memory()
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", m, err)
		}
		s.memory[i] = memory
	}
	for i := range s.Flows {
		s.Flows[i] = make([]bpf.DatapathFlowSet, d.HalfOpen.MaxEntries())
		s.Tags[i] = make([]uint64, d.HalfOpen.MaxEntries())
	}
	s.Outbound = make([]bpf.DatapathOutboundSet, d.Outbound.MaxEntries())
	return s, nil
}

// Read copies what the tables hold now.
func (s *Sets) Read() error {
	for i, content := range s.bytes() {
		if _, err := s.memory[i].ReadAt(content, 0); err != nil {
			return fmt.Errorf("read flow table %d: %w", i, err)
		}
	}
	return nil
}

// Write replaces what the tables hold.
func (s *Sets) Write() error {
	for i, content := range s.bytes() {
		if _, err := s.memory[i].WriteAt(content, 0); err != nil {
			return fmt.Errorf("write flow table %d: %w", i, err)
		}
	}
	return nil
}

func (s *Sets) bytes() (views [9][]byte) {
	for i := range s.Flows {
		views[i] = bytesOf(s.Flows[i])
		views[len(s.Flows)+i] = bytesOf(s.Tags[i])
	}
	views[len(views)-1] = bytesOf(s.Outbound)
	return views
}

func bytesOf[E any](elements []E) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&elements[0])), len(elements)*int(unsafe.Sizeof(elements[0])))
}

// Places are what the programs remember in arrays beside the flow tables, mapped into memory as
// those are.
type Places struct {
	Fragments View[bpf.DatapathFragmentSet]
	Foreign   View[bpf.DatapathForeignSet]
	Asked     View[bpf.DatapathAskedSet]
}

// View is a copy of an array that is mapped into memory.
type View[E any] struct {
	Elements []E
	m        *ebpf.Map
	memory   *ebpf.Memory
}

// Read copies what the array holds now.
func (v *View[E]) Read() error {
	if _, err := v.memory.ReadAt(bytesOf(v.Elements), 0); err != nil {
		return fmt.Errorf("read %s: %w", v.m, err)
	}
	return nil
}

// Write replaces what the array holds.
func (v *View[E]) Write() error {
	if _, err := v.memory.WriteAt(bytesOf(v.Elements), 0); err != nil {
		return fmt.Errorf("write %s: %w", v.m, err)
	}
	return nil
}

func newView[E any](m *ebpf.Map, memory *ebpf.Memory) View[E] {
	return View[E]{Elements: make([]E, m.MaxEntries()), m: m, memory: memory}
}

// MapPlaces maps these arrays of a datapath that was loaded for it.
func (d *Datapath) MapPlaces() (*Places, error) {
	asked, err := d.Asked.Memory()
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", d.Asked, err)
	}
	return &Places{
		Fragments: newView[bpf.DatapathFragmentSet](d.DatapathMaps.Fragments, d.fragments),
		Foreign:   newView[bpf.DatapathForeignSet](d.DatapathMaps.Foreign, d.foreign),
		Asked:     newView[bpf.DatapathAskedSet](d.Asked, asked),
	}, nil
}

// Marked says whether a digest is marked, with the mark that Mark gave for it.
func (d *Datapath) Marked(digest, mark uint64) (bool, error) {
	place := digest >> 1 % uint64(d.DatapathMaps.Marks.MaxEntries())
	var found [8]byte
	if _, err := d.marks.ReadAt(found[:], int64(place*8)); err != nil {
		return false, fmt.Errorf("read %s: %w", d.DatapathMaps.Marks, err)
	}
	return *(*uint64)(unsafe.Pointer(&found)) == mark, nil
}

// SetMark marks a digest as the programs do now.
func (d *Datapath) SetMark(digest uint64) error {
	mark, err := d.Mark(digest)
	if err != nil {
		return err
	}
	return d.writeMark(digest, mark)
}

// Unmark takes the mark of a digest away.
func (d *Datapath) Unmark(digest uint64) error { return d.writeMark(digest, 0) }

func (d *Datapath) writeMark(digest, mark uint64) error {
	place := digest >> 1 % uint64(d.DatapathMaps.Marks.MaxEntries())
	if _, err := d.marks.WriteAt(binary.NativeEndian.AppendUint64(nil, mark), int64(place*8)); err != nil {
		return fmt.Errorf("write %s: %w", d.DatapathMaps.Marks, err)
	}
	return nil
}

// ForgetForeign empties what is known of addresses and tuples that are none of ours.
func (d *Datapath) ForgetForeign() error {
	return wipe(d.DatapathMaps.Foreign, d.foreign)
}
