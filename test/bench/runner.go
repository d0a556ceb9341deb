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
		r.takeTurns(ctx, slots, shown)
		if ctx.Err() != nil {
			return false
		}
		done += len(slots)
	}
	return true
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
	if err := at.warmUp(ctx, r.warmUp); err != nil {
		return report.Value{}, err
	}
	if value.Value, err = at.work.Run(ctx, r.duration); err != nil {
		return value, err
	}
	return value, at.checkWay()
}
