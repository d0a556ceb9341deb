// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// wantCounted runs a case so often, and wants each run to count as an event that no other
// way through the program counts: but for one in a hundred, as a random peer may come again.
func (b *bench) wantCounted(c *testCase, event bpf.DatapathEvent, runs uint32) error {
	before, err := b.datapath.EventCounts()
	if err != nil {
		return err
	}
	if _, err := c.program.Run(c.options(runs)); err != nil {
		return err
	}
	after, err := b.datapath.EventCounts()
	if err != nil {
		return err
	}
	if counted := after[event] - before[event]; counted < uint64(runs-runs/100) {
		return fmt.Errorf("only %d of %d runs count as event %d", counted, runs, event)
	}
	return nil
}

// wantOutcome wants a run to count so many packets with this outcome.
func (b *bench) wantOutcome(c *testCase, outcome bpf.DatapathOutcome, packets uint64) error {
	before, err := b.outcomes(outcome)
	if err != nil {
		return err
	}
	if _, err := c.program.Run(c.options(1)); err != nil {
		return err
	}
	after, err := b.outcomes(outcome)
	if err == nil && after-before != packets {
		err = fmt.Errorf("%d packets count as outcome %d, want %d", after-before, outcome, packets)
	}
	return err
}

func (b *bench) outcomes(outcome bpf.DatapathOutcome) (packets uint64, err error) {
	counts, err := b.datapath.Counts()
	for pair, count := range counts.Pairs {
		if bpf.DatapathOutcome(pair.Outcome) == outcome {
			packets += count.Packets
		}
	}
	return packets, err
}

// counts proves that every run counts as this event.
func (b *bench) counts(event bpf.DatapathEvent) func(*testCase) error {
	return func(c *testCase) error { return b.wantCounted(c, event, 1000) }
}

// ends proves that a reply of a flow by another interface ends with this outcome. One that is moved
// counts as corrected where it arrives.
func (b *bench) ends(outcome bpf.DatapathOutcome) func(*testCase) error {
	return func(c *testCase) error { return b.wantOutcome(c, outcome, 1) }
}

// countsNothing proves that nothing becomes of a packet: it is of no flow, and nothing is wrong with it.
func (b *bench) countsNothing(c *testCase) error {
	before, err := b.datapath.Counts()
	if err != nil {
		return err
	}
	if _, err := c.program.Run(c.options(1)); err != nil {
		return err
	}
	after, err := b.datapath.Counts()
	if err == nil && !(maps.Equal(before.Events, after.Events) && maps.Equal(before.Pairs, after.Pairs)) {
		err = fmt.Errorf("something is counted: %v and %v, before it %v and %v", after.Events, after.Pairs, before.Events, before.Pairs)
	}
	return err
}

// isStranger proves that the first packet asks for a socket, and no other.
func (b *bench) isStranger(c *testCase) error {
	return errors.Join(b.wantCounted(c, noSocket, 1), b.countsNothing(c))
}

// notes proves that the first run sets a bit of its flow.
func (b *bench) notes(table *ebpf.Map, flow bpf.DatapathFlow, isSet func(bpf.DatapathFlow) bool) func(*testCase) error {
	return func(c *testCase) error {
		at, err := b.find(table, flow)
		if err != nil {
			return err
		}
		before, err := at.flow()
		if err != nil {
			return err
		}
		if _, err := c.program.Run(c.options(1)); err != nil {
			return err
		}
		after, err := at.flow()
		if err == nil && (isSet(before) || !isSet(after)) {
			err = fmt.Errorf("the flow is %+v, before it %+v", after, before)
		}
		return err
	}
}

// isActive is what a frame by the flow's own way notes, isAnswered what a datagram to the peer does.
func isActive(f bpf.DatapathFlow) bool {
	return f.Flags&uint16(bpf.DatapathFlowFlagsFLOW_ACTIVE) != 0
}

func isAnswered(f bpf.DatapathFlow) bool {
	return f.State&uint8(bpf.DatapathFlowStateFLOW_ANSWERED) != 0
}
