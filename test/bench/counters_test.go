// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/bench/load"
)

// steady is work that is done a hundred times a second.
type steady struct{}

func (steady) Run(ctx context.Context, d time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
	return 100, nil
}

func (steady) Close() error { return nil }

// TestCounters counts what the kernel counts on any machine, in the place of what
// the CPU does: the CPU's time in nanoseconds.
func TestCounters(t *testing.T) {
	clock := event{unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CPU_CLOCK}
	c := await.Must1[*counters](t)(openCounters(load.CPU(), []event{clock, clock}))
	r := &runner{duration: 50 * time.Millisecond, counters: c}
	value, err := r.count(t.Context(), slot{workload: &load.Workload{}}, steady{}, r.duration)
	await.Must(t, err)
	await.Must(t, c.close())
	// A hundredth of a second each, whoever has used it; the readings are not at the
	// same instants as those of the clock.
	if value.Value != 100 || value.Cycles < 5e6 || value.Cycles > 20e6 || value.Misses < 5e6 {
		t.Errorf("a unit took %v ns and %v ns, not about 10 ms: %+v", value.Cycles, value.Misses, value)
	}
	value, err = r.count(t.Context(), slot{workload: &load.Workload{Program: true}}, steady{}, r.duration)
	if err != nil || value.Cycles != 0 || value.Misses != 0 {
		t.Errorf("a program that uses other CPUs as well: %+v, %v", value, err)
	}
}

func TestCountersMissing(t *testing.T) {
	if _, err := openCounters(load.CPU(), []event{{kind: 0xffff}}); err == nil {
		t.Error("an unknown event is no error")
	}
}
