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
			set.Flow[0].Overflowed = 1 // lookups go on to the second set
			if err := table.Put(index, set); err != nil {
				return fmt.Errorf("write set %d: %w", index, err)
			}
			index, set = other, second
		}
	}
	way, free := bpf.FreeWay(set.Digest, digest)
	if !free {
		return ErrFull
	}
	flow.Overflowed = set.Flow[way].Overflowed // says something of the set
	set.Digest[way], set.Flow[way] = digest, flow
	if err := table.Put(index, set); err != nil {
		return fmt.Errorf("write set %d: %w", index, err)
	}
	return nil
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
