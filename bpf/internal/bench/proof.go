package main

import (
	"fmt"

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
