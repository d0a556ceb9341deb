// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"replypath/bpf/internal/rig"
)

// testCase is one way through a program.
type testCase struct {
	bench *bench
	name  string
	limit
	program *ebpf.Program
	// baseline is what is taken off: an empty program, called the same way.
	baseline *ebpf.Program
	frame    []byte
	ifindex  uint32
	arrived  uint32 // the interface that a packet came in by which is forwarded; 0: it is the host's
	verdict  int32
	// before is what is done to the packet and the maps before every run, of the empty program as well.
	before func() asm.Instructions
	arrays []*ebpf.Map // of programs: the kernel empties them once nobody has them open
	// prepare fills the maps; it is called once.
	prepare func() error
	// prove makes sure that a run does what the name says; it is called once, after prepare.
	prove func(*testCase) error
}

// result is a case's cost over its baseline, in nanoseconds a run.
type result struct {
	Name     string  `json:"name"`
	Median   float64 `json:"median"`
	Min      float64 `json:"min"`
	Max      float64 `json:"max"`
	Quiet    float64 `json:"quiet"` // its quickest round less the empty program's quickest
	Bound    float64 `json:"bound"`
	recorded float64 // see testCase
	Aim      float64 `json:"aim"`      // what the project wants to reach; 0: none
	Baseline float64 `json:"baseline"` // median of the empty program alone
}

// exceeds compares the median with the bound, or the quiet cost on a machine that others disturb.
func (r *result) exceeds(disturbed bool) bool {
	return r.Bound != 0 && r.held(disturbed) > r.Bound
}

// held is what is held against the bound.
func (r *result) held(disturbed bool) float64 {
	if disturbed {
		return r.Quiet
	}
	return r.Median
}

// measurement is a case and what its rounds took, in nanoseconds a run.
type measurement struct {
	*testCase
	costs, totals, baselines []float64 // a round each
}

// begin checks every case before any is measured.
func begin(cases []*testCase) ([]*measurement, error) {
	measurements := make([]*measurement, len(cases))
	for i, c := range cases {
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		measurements[i] = &measurement{testCase: c}
	}
	return measurements, nil
}

// measure runs every case and its baseline once a round, so that whatever
// disturbs the machine for a while disturbs them alike.
func measure(measurements []*measurement, repeat uint32, rounds int) error {
	for range rounds {
		for _, m := range measurements {
			baseline, err := m.time(m.baseline, repeat)
			if err != nil {
				return err
			}
			total, err := m.time(m.program, repeat)
			if err != nil {
				return err
			}
			m.costs = append(m.costs, total-baseline)
			m.totals = append(m.totals, total)
			m.baselines = append(m.baselines, baseline)
		}
	}
	return nil
}

func (m *measurement) result() result {
	return result{
		Name:     m.name,
		Median:   median(m.costs),
		Min:      slices.Min(m.costs),
		Max:      slices.Max(m.costs),
		Quiet:    slices.Min(m.totals) - slices.Min(m.baselines),
		Bound:    m.bound,
		recorded: m.recorded,
		Aim:      m.aim,
		Baseline: median(m.baselines),
	}
}

func results(measurements []*measurement) []result {
	results := make([]result, len(measurements))
	for i, m := range measurements {
		results[i] = m.result()
	}
	return results
}

// check makes sure that the case measures what its name says.
func (c *testCase) check() error {
	if err := c.wrap(); err != nil {
		return err
	}
	if c.prepare != nil {
		if err := c.prepare(); err != nil {
			return err
		}
	}
	if c.prove != nil {
		if err := c.prove(c); err != nil {
			return err
		}
	}
	if err := c.checkVerdict(1); err != nil || c.before == nil {
		return err
	}
	return c.checkVerdict(4) // all is put back before the last of them
}

// checkVerdict wants the last of so many runs to end as it should.
func (c *testCase) checkVerdict(runs uint32) error {
	verdict, err := c.program.Run(c.options(runs))
	if err == nil && int32(verdict) != c.verdict {
		err = fmt.Errorf("%s: verdict %d of run %d, want %d", c.name, int32(verdict), runs, c.verdict)
	}
	return err
}

func (c *testCase) options(repeat uint32) *ebpf.RunOptions {
	return &ebpf.RunOptions{Data: c.frame, Context: rig.Context{Ifindex: c.ifindex, IngressIfindex: c.arrived}, Repeat: repeat}
}

// time is the CPU time of one run in nanoseconds. It is the thread's own, so that other processes on this CPU do not
// count; setting up the call is shared by all the runs.
func (c *testCase) time(program *ebpf.Program, repeat uint32) (float64, error) {
	opts := c.options(repeat)
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	if _, err := program.Run(opts); err != nil {
		return 0, fmt.Errorf("%s: %w", c.name, err)
	}
	end, err := threadTime()
	return float64(end-start) / float64(repeat), err
}

func threadTime() (int64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read thread time: %w", err)
	}
	return t.Nano(), nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
