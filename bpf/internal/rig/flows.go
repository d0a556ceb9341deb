// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// ErrFull is what AddFlow returns where the programs would push out another flow.
var ErrFull = errors.New("both sets are full")

// AddFlow enters a flow in one of the two sets that its tuple belongs to, chosen
// as the programs do: see insert() of bpf/src/table.h.
func (d *Datapath) AddFlow(table *ebpf.Map, flow bpf.DatapathFlow) error {
	digest := d.Seeds.Digest(flow.Tuple)
	index, other := bpf.Sets(digest, table.MaxEntries())
	var set, second bpf.DatapathFlowSet
	if err := table.Lookup(index, &set); err != nil {
		return fmt.Errorf("read set %d: %w", index, err)
	}
	if used(&set) >= int(bpf.DatapathWaysCROWDED) {
		if err := table.Lookup(other, &second); err != nil {
			return fmt.Errorf("read set %d: %w", other, err)
		}
		if used(&second) < used(&set) {
			if err := put(d.TagsOf(table), index, bpf.Tags(set.Digest)|bpf.Overflowed); err != nil {
				return err
			}
			index, set = other, second
		}
	}
	way, free := bpf.FreeWay(set.Digest, digest)
	if !free {
		return ErrFull
	}
	set.Digest[way], set.Flow[way] = digest, flow
	var tags uint64 // of which the mark of overflow stays
	if err := d.TagsOf(table).Lookup(index, &tags); err != nil {
		return fmt.Errorf("read tags of set %d: %w", index, err)
	}
	return errors.Join(put(table, index, &set), put(d.TagsOf(table), index, bpf.Tags(set.Digest)|tags&bpf.Overflowed))
}

// TagsOf is the map of the tags of a flow table.
func (d *Datapath) TagsOf(table *ebpf.Map) *ebpf.Map {
	return map[*ebpf.Map]*ebpf.Map{
		d.HalfOpen:       d.HalfOpenTags,
		d.Established:    d.EstablishedTags,
		d.Connectionless: d.ConnectionlessTags,
		d.Nursery:        d.NurseryTags,
	}[table]
}

// used counts the ways that are taken.
func used(set *bpf.DatapathFlowSet) (count int) {
	for _, digest := range set.Digest {
		if digest != 0 {
			count++
		}
	}
	return count
}

// IsOriginated tells of an entry of the established table that is of no flow: see bpf/src/answered.h.
func IsOriginated(flow *bpf.DatapathFlow) bool {
	return flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_ORIGINATED) != 0
}

// Answered returns the entry of the established table of a connection that the host originates, nil for none.
func (d *Datapath) Answered(tuple bpf.DatapathTuple) (*bpf.DatapathFlow, error) {
	digest := d.Seeds.Digest(tuple)
	index, _ := bpf.Sets(digest, d.Established.MaxEntries())
	var set bpf.DatapathFlowSet
	if err := d.Established.Lookup(index, &set); err != nil {
		return nil, err
	}
	way := slices.Index(set.Digest[:], digest)
	if way < 0 || !IsOriginated(&set.Flow[way]) {
		return nil, nil
	}
	return &set.Flow[way], nil
}

// Record returns what is kept of a tuple that the host originates, nil for nothing; see Answered.
func (d *Datapath) Record(tuple bpf.DatapathTuple) (*bpf.DatapathOriginatedTuple, error) {
	_, set, way, err := d.record(tuple)
	if err != nil || way < 0 {
		return nil, err
	}
	return &set.Tuple[way], nil
}

// SetRecord writes over what is kept of a tuple; it does nothing where nothing is.
func (d *Datapath) SetRecord(tuple bpf.DatapathTuple, record bpf.DatapathOriginatedTuple) error {
	index, set, way, err := d.record(tuple)
	if err != nil || way < 0 {
		return err
	}
	set.Tuple[way] = record
	return put(d.Originated, index, set)
}

// DeleteRecord forgets a tuple that the host originates.
func (d *Datapath) DeleteRecord(tuple bpf.DatapathTuple) error {
	index, set, way, err := d.record(tuple)
	if err != nil || way < 0 {
		return err
	}
	set.Digest[way] = 0
	return put(d.Originated, index, set)
}

// record returns the set of a tuple, and the way that has it, -1 for none.
func (d *Datapath) record(tuple bpf.DatapathTuple) (index uint32, set bpf.DatapathOriginatedSet, way int, err error) {
	digest := d.Seeds.Digest(tuple)
	index, _ = bpf.Sets(digest, d.Originated.MaxEntries())
	err = d.Originated.Lookup(index, &set)
	return index, set, slices.Index(set.Digest[:], digest), err
}
