// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	"replypath/bpf"
	"replypath/loader/config"
)

// copyFlows enters the flows of one table in another, which is empty and which no
// program uses yet. Where there is no room for all, those stay that are in use; those that come or change meanwhile are left
// out. A live one comes back with its next packet.
//
// A way that is written while it is read may show the digest of one flow and the tuple of
// another: in a table that nobody mends it would keep the first one out.
func copyFlows(to, from *Table, seeds bpf.Seeds) error {
	c := newCopier(to.region.Sets)
	for _, spent := range []bool{false, true} {
		err := from.Each(func(digest uint64, flow *bpf.DatapathFlow) bool {
			if isSpent(flow) == spent && seeds.Digest(flow.Tuple) == digest {
				c.enter(digest, flow)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	for index, set := range c.sets {
		if err := to.put(index, &set.DatapathFlowSet, set.tags()); err != nil {
			return err
		}
	}
	return nil
}

// isSpent tells a flow that is closing, or is none, or nothing but a question so far.
func isSpent(flow *bpf.DatapathFlow) bool {
	isOneWay := flow.State&uint8(bpf.DatapathFlowStateFLOW_REPLIED) == 0 && flow.Tuple.Protocol != config.ProtocolTCP
	return isOneWay || flow.State&uint8(bpf.DatapathFlowStateFLOW_CLOSING) != 0 ||
		flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_RESET|bpf.DatapathFlowFlagsFLOW_STRAY) != 0
}

// flowSet is a set in the making.
type flowSet struct {
	bpf.DatapathFlowSet
	overflowed bool
}

func (s *flowSet) tags() uint64 {
	tags := bpf.Tags(s.Digest)
	if s.overflowed {
		tags |= bpf.Overflowed
	}
	return tags
}

// copier fills a table in memory. It holds the sets that something is in: the table
// may be much larger.
type copier struct {
	sets  map[uint32]*flowSet
	count uint32 // of all sets
}

func newCopier(count uint32) *copier { return &copier{make(map[uint32]*flowSet), count} }

func (c *copier) set(index uint32) *flowSet {
	if c.sets[index] == nil {
		c.sets[index] = new(flowSet)
	}
	return c.sets[index]
}

// enter enters a flow, if there is room, in its first set or, where that is crowded, in the emptier one, as insert() in
// bpf/src/table.h does.
func (c *copier) enter(digest uint64, flow *bpf.DatapathFlow) {
	index, other := bpf.Sets(digest, c.count)
	set := c.set(index)
	if used(set) >= int(bpf.DatapathWaysCROWDED) && used(c.set(other)) < used(set) {
		set.overflowed = true
		set = c.set(other)
	}
	if way := slices.Index(set.Digest[:], 0); way >= 0 {
		set.Digest[way], set.Flow[way] = digest, *flow
	}
}

func used(set *flowSet) int {
	count := 0
	for _, digest := range set.Digest {
		if digest != 0 {
			count++
		}
	}
	return count
}
