// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"slices"

	"replypath/bpf"
)

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
	return d.Originated.Put(index, set)
}

// DeleteRecord forgets a tuple that the host originates.
func (d *Datapath) DeleteRecord(tuple bpf.DatapathTuple) error {
	index, set, way, err := d.record(tuple)
	if err != nil || way < 0 {
		return err
	}
	set.Digest[way] = 0
	return d.Originated.Put(index, set)
}

// record returns the set of a tuple, and the way that has it, -1 for none.
func (d *Datapath) record(tuple bpf.DatapathTuple) (index uint32, set bpf.DatapathOriginatedSet, way int, err error) {
	digest := d.Seeds.Digest(tuple)
	index, _ = bpf.Sets(digest, d.Originated.MaxEntries())
	if err := d.Originated.Lookup(index, &set); err != nil {
		return 0, set, -1, err
	}
	return index, set, slices.Index(set.Digest[:], digest), nil
}
