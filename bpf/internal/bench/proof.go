// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// counted runs a case, and returns what is counted before and after it.
func (c *testCase) counted(runs uint32) (before, after rig.Counts, err error) {
	if before, err = c.bench.datapath.Counts(); err != nil {
		return before, after, err
	}
	if _, err = c.program.Run(c.options(runs)); err != nil {
		return before, after, err
	}
	after, err = c.bench.datapath.Counts()
	return before, after, err
}

// counts proves that every run counts as an event that no other way through the program counts: but for one in a
// hundred, as a random peer may come again.
func counts(event bpf.DatapathEvent, runs uint32) func(*testCase) error {
	return func(c *testCase) error {
		before, after, err := c.counted(runs)
		if counted := after.Events[event] - before.Events[event]; err == nil && counted < uint64(runs-runs/100) {
			err = fmt.Errorf("only %d of %d runs count as event %d", counted, runs, event)
		}
		return err
	}
}

// ends proves that a reply of a flow by another interface counts as so many packets with this outcome. One that is
// moved counts as corrected where it arrives.
func ends(outcome bpf.DatapathOutcome, packets uint64) func(*testCase) error {
	ending := func(counts rig.Counts) (packets uint64) {
		for pair, count := range counts.Pairs {
			if bpf.DatapathOutcome(pair.Outcome) == outcome {
				packets += count.Packets
			}
		}
		return packets
	}
	return func(c *testCase) error {
		before, after, err := c.counted(1)
		if ended := ending(after) - ending(before); err == nil && ended != packets {
			err = fmt.Errorf("%d packets count as outcome %d, want %d", ended, outcome, packets)
		}
		return err
	}
}

// countsNothing proves that nothing becomes of a packet: it is of no flow, and nothing is wrong with it.
func countsNothing(c *testCase) error {
	before, after, err := c.counted(1)
	if err == nil && !(maps.Equal(before.Events, after.Events) && maps.Equal(before.Pairs, after.Pairs)) {
		err = fmt.Errorf("something is counted: %v and %v, before it %v and %v", after.Events, after.Pairs, before.Events, before.Pairs)
	}
	return err
}

// notes proves that the first run sets a bit of its flow.
func (p place) notes(isSet func(bpf.DatapathFlow) bool) func(*testCase) error {
	return func(c *testCase) error {
		before, err := p.set()
		if err != nil {
			return err
		}
		if _, err := c.program.Run(c.options(1)); err != nil {
			return err
		}
		after, err := p.set()
		if err == nil && (isSet(before.Flow[p.way]) || !isSet(after.Flow[p.way])) {
			err = fmt.Errorf("the flow is %+v, before it %+v", after.Flow[p.way], before.Flow[p.way])
		}
		return err
	}
}

// isActive is what a frame by the flow's own way notes, isAnswered what a datagram to the peer does.
func isActive(f bpf.DatapathFlow) bool { return f.Flags&uint16(bpf.DatapathFlowFlagsFLOW_ACTIVE) != 0 }
func isAnswered(f bpf.DatapathFlow) bool {
	return f.State&uint8(bpf.DatapathFlowStateFLOW_REPLIED) != 0
}

// sets proves that every run of a case sets a state of its flow that is not set before it.
func (p place) sets(want bpf.DatapathFlowState) func(*testCase) error {
	return func(c *testCase) error {
		for _, run := range []struct {
			program *ebpf.Program
			want    bpf.DatapathFlowState
		}{{c.program, want}, {c.baseline, 0}, {c.program, want}} {
			if _, err := run.program.Run(c.options(1)); err != nil {
				return err
			}
			set, err := p.set()
			if err != nil {
				return err
			}
			if state := bpf.DatapathFlowState(set.Flow[p.way].State); state&want != run.want {
				return fmt.Errorf("the flow's state is %#x, want %#x of %#x", state, run.want, want)
			}
		}
		return nil
	}
}
