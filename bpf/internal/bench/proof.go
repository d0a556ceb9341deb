// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

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
