// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"

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
	set, err := readSet(table, index)
	if err != nil {
		return err
	}
	if used(set) >= int(bpf.DatapathWaysCROWDED) {
		second, err := readSet(table, other)
		if err != nil {
			return err
		}
		if used(second) < used(set) {
			if err := d.putTags(table, index, bpf.Tags(set.Digest)|bpf.Overflowed); err != nil {
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
	return d.putSet(table, index, set)
}

// putSet writes a set and its tags, of which it leaves the mark of overflow.
func (d *Datapath) putSet(table *ebpf.Map, index uint32, set *bpf.DatapathFlowSet) error {
	var tags uint64
	if err := d.TagsOf(table).Lookup(index, &tags); err != nil {
		return fmt.Errorf("read tags of set %d: %w", index, err)
	}
	if err := table.Put(index, set); err != nil {
		return fmt.Errorf("write set %d: %w", index, err)
	}
	return d.putTags(table, index, bpf.Tags(set.Digest)|tags&bpf.Overflowed)
}

func (d *Datapath) putTags(table *ebpf.Map, index uint32, tags uint64) error {
	if err := d.TagsOf(table).Put(index, tags); err != nil {
		return fmt.Errorf("write tags of set %d: %w", index, err)
	}
	return nil
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

func readSet(table *ebpf.Map, index uint32) (*bpf.DatapathFlowSet, error) {
	set := new(bpf.DatapathFlowSet)
	if err := table.Lookup(index, set); err != nil {
		return nil, fmt.Errorf("read set %d: %w", index, err)
	}
	return set, nil
}

// used counts the ways that are taken.
func used(set *bpf.DatapathFlowSet) int {
	count := 0
	for _, digest := range set.Digest {
		if digest != 0 {
			count++
		}
	}
	return count
}
