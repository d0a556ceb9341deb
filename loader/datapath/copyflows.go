// SPDX-License-Identifier: Apache-2.0

package datapath

import "replypath/bpf"

// copyFlows enters the flows of one table in another, which is empty and which no
// program uses yet. Where there is no room for all, those stay that the
// programs would keep; those that come or change meanwhile are left out. A live one
// comes back with its next packet.
//
// A way that is written while it is read may show the digest of one flow and the tuple of
// another: in a table that nobody mends it would keep the first one out.
func copyFlows(to, from *Table, clock Clock, seeds bpf.Seeds) error {
	c := newCopier(to.region.Sets, clock.Now())
	c.connectionless = to.ID == bpf.DatapathTableTABLE_CONNECTIONLESS
	err := from.Each(func(digest uint64, flow *bpf.DatapathFlow) bool {
		if seeds.Digest(flow.Tuple) == digest {
			c.enter(digest, flow)
		}
		return true
	})
	if err != nil {
		return err
	}
	for index, set := range c.sets {
		if err := to.put(index, &set.DatapathFlowSet, set.tags()); err != nil {
			return err
		}
	}
	return nil
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
	sets           map[uint32]*flowSet
	count          uint32 // of all sets
	now            uint32 // in ticks
	connectionless bool
}

func newCopier(count, now uint32) *copier {
	return &copier{sets: make(map[uint32]*flowSet), count: count, now: now}
}

func (c *copier) set(index uint32) *flowSet {
	set := c.sets[index]
	if set == nil {
		set = new(flowSet)
		c.sets[index] = set
	}
	return set
}

// enter chooses between the two sets as insert() in bpf/src/table.h does.
func (c *copier) enter(digest uint64, flow *bpf.DatapathFlow) {
	index, other := bpf.Sets(digest, c.count)
	set := c.set(index)
	way, rank := c.vacancy(set)
	if used(set) >= int(bpf.DatapathWaysCROWDED) {
		second := c.set(other)
		secondWay, secondRank := c.vacancy(second)
		if used(second) < used(set) || used(second) == len(second.Digest) && secondRank > rank {
			set.overflowed = true
			set, way, rank = second, secondWay, secondRank
		}
	}
	if set.Digest[way] != 0 && rank <= c.evictionPriority(flow) {
		return
	}
	set.Digest[way], set.Flow[way] = digest, *flow
}

// vacancy returns a free way, or the one whose flow makes room most readily.
func (c *copier) vacancy(set *flowSet) (way int, rank uint32) {
	for i, digest := range set.Digest {
		if digest == 0 {
			return i, 0
		}
		if r := c.evictionPriority(&set.Flow[i]); r > rank {
			way, rank = i, r
		}
	}
	return way, rank
}

// evictionPriority is how readily a flow makes room, as eviction_priority() in bpf/src/table.h.
func (c *copier) evictionPriority(flow *bpf.DatapathFlow) uint32 {
	rank := age(c.now, flow.Seen)
	if flow.State&uint8(bpf.DatapathFlowStateFLOW_CLOSING) != 0 ||
		flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_RESET|bpf.DatapathFlowFlagsFLOW_STRAY) != 0 {
		rank |= 1 << 31
	}
	if c.connectionless && !isConversation(flow) {
		rank |= 1 << 30
	}
	return rank
}

// isConversation mirrors is_conversation() in bpf/src/table.h.
func isConversation(flow *bpf.DatapathFlow) bool {
	return flow.State&uint8(bpf.DatapathFlowStateFLOW_REPLIED) != 0 &&
		(flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_ACTIVE) != 0 || flow.Seen != flow.Created)
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
