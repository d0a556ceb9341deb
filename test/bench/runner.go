// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

// slotTime bounds what a slot takes beside its measurement.
const slotTime = 2 * time.Minute

// runner carries out a plan.
type runner struct {
	plan     *plan
	duration time.Duration
	warmUp   time.Duration
	progress *progress
	counters *counters // nil where the machine has none
	shared   *load.Shared

	rounds   int // that have been completed, further ones among them
	values   map[string]map[string][]report.Value
	failures []report.Failure
}

func newRunner(p *plan, o options, progress *progress) *runner {
	return &runner{
		plan: p, duration: o.duration, warmUp: o.warmUp(), progress: progress, shared: new(load.Shared),
		values: make(map[string]map[string][]report.Value), failures: []report.Failure{},
	}
}

// run carries out the plan until it is done or ctx ends, which is no error: what was measured until then counts.
func (r *runner) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, r.shared.Close()) }()
	begun, perSlot := time.Now(), time.Duration(0)
	for r.plan.another(r.rounds, time.Since(begun), perSlot) {
		round := time.Now()
		if !r.round(ctx) {
			return nil
		}
		perSlot = time.Since(round) / time.Duration(len(r.plan.inRound(r.rounds)))
		r.rounds++
	}
	return nil
}

// round measures every slot; false where ctx has ended before.
func (r *runner) round(ctx context.Context) bool {
	done := 0
	for _, slots := range r.plan.of(r.rounds) {
		shown := func(part float64, s slot) { r.progress.show(r.rounds, done+int(part*float64(len(slots))), s) }
		if slots[0].workload.Whole {
			r.wholes(ctx, slots, shown)
		} else {
			r.takeTurns(ctx, slots, shown)
		}
		if ctx.Err() != nil {
			return false
		}
		done += len(slots)
	}
	return true
}

// wholes measures slots one after the other.
func (r *runner) wholes(ctx context.Context, slots []slot, shown func(part float64, s slot)) {
	for i, s := range slots {
		shown(float64(i)/float64(len(slots)), s)
		value, err := r.measure(ctx, s)
		if ctx.Err() != nil {
			return // whatever failed did so for this
		}
		r.note(s, value, err)
	}
}

func (r *runner) note(s slot, value report.Value, err error) {
	if err != nil {
		r.failures = append(r.failures, report.Failure{
			Round: r.rounds, Workload: s.workload.Name, Contender: s.name, Error: err.Error(),
		})
		return
	}
	byContender := r.values[s.workload.Name]
	if byContender == nil {
		byContender = make(map[string][]report.Value)
		r.values[s.workload.Name] = byContender
	}
	value.Round = r.rounds
	byContender[s.name] = append(byContender[s.name], value)
}

// measure has a slot alone at work.
func (r *runner) measure(ctx context.Context, s slot) (value report.Value, err error) {
	patience := slotTime + 4*r.duration
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done in %s", patience))
	defer cancel()
	at := r.setUp(ctx, s)
	defer func() { err = errors.Join(err, at.close()) }()
	if at.err != nil {
		return report.Value{}, at.err
	}
	if !s.workload.Whole {
		if err := at.warmUp(ctx, r.warmUp); err != nil {
			return report.Value{}, err
		}
	}
	if value, err = r.count(ctx, s, at.work, r.duration); err != nil {
		return value, err
	}
	return value, at.checkWay()
}

// count measures, and counts the CPU's events for each unit of the work.
func (r *runner) count(ctx context.Context, s slot, work load.Work, d time.Duration) (value report.Value, err error) {
	if r.counters == nil || !s.workload.OneCore() {
		value.Value, err = work.Run(ctx, d)
		return value, err
	}
	before, err := r.counters.read()
	if err != nil {
		return report.Value{}, err
	}
	begun := time.Now()
	if value.Value, err = work.Run(ctx, d); err != nil {
		return report.Value{}, err
	}
	units := value.Value * time.Since(begun).Seconds()
	after, err := r.counters.read()
	if err != nil {
		return report.Value{}, err
	}
	value.Cycles = float64(after[0]-before[0]) / units
	value.Misses = float64(after[1]-before[1]) / units
	return value, nil
}
