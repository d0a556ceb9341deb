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
func (d *Datapath) AddFlow(table *Table, flow bpf.DatapathFlow) error {
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
			if err := table.PutTags(index, bpf.Tags(set.Digest)|bpf.Overflowed); err != nil {
				return err
			}
			index, set = other, second
		}
	}
	way, free := FreeWay(set.Digest, digest)
	if !free {
		return ErrFull
	}
	set.Digest[way], set.Flow[way] = digest, flow
	var tags uint64 // of which the mark of overflow stays
	if err := table.Tags.Lookup(table.At(index), &tags); err != nil {
		return fmt.Errorf("read tags of set %d: %w", index, err)
	}
	return errors.Join(table.Put(index, set), table.PutTags(index, bpf.Tags(set.Digest)|tags&bpf.Overflowed))
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

// ends is how the map `originated` knows a tuple.
func ends(tuple bpf.DatapathTuple) bpf.DatapathEnds {
	return bpf.DatapathEnds{Peer: tuple.Peer, Self: tuple.Self}
}

// Record returns what is kept of the addresses of a tuple, nil for nothing.
func (d *Datapath) Record(tuple bpf.DatapathTuple) (*bpf.DatapathRecord, error) {
	var record bpf.DatapathRecord
	err := d.Originated.Lookup(ends(tuple), &record)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read what is kept of two addresses: %w", err)
	}
	return &record, nil
}

// SetRecord writes what is kept of the addresses of a tuple.
func (d *Datapath) SetRecord(tuple bpf.DatapathTuple, record bpf.DatapathRecord) error {
	return put(d.Originated, ends(tuple), record)
}

// Question returns the digest of the flow by which a peer asked last, 0 for none.
func (d *Datapath) Question(tuple bpf.DatapathTuple) (digest uint64, err error) {
	err = d.Questions.Lookup(ends(tuple), &digest)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("read by which flow a peer asked: %w", err)
	}
	return digest, nil
}

// ForgetRelated empties what is kept of addresses.
func (d *Datapath) ForgetRelated() error {
	return errors.Join(
		deleteAll[bpf.DatapathEnds, bpf.DatapathRecord](d.Originated),
		deleteAll[bpf.DatapathEnds, uint64](d.Questions),
	)
}

// FreeWay returns the free way of a set that a digest is put into: the one that it
// prefers, or the next one after it. The digests are those of the set, 0 where a
// way is free; ok is false where none is.
func FreeWay(digests [bpf.DatapathWaysWAYS]uint64, digest uint64) (way int, ok bool) {
	for i := range digests {
		// As preferred_way() in src/tuple.h, and those after it.
		way := (digest>>1 + uint64(i)) % uint64(len(digests))
		if digests[way] == 0 {
			return int(way), true
		}
	}
	return 0, false
}
