package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"replypath/test/bench/contender"
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

// run carries out the plan until it is done or ctx ends, which is no error: what was
// measured until then counts.
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
	for i, s := range r.plan.of(r.rounds) {
		r.progress.show(r.rounds, i, s)
		value, err := r.measure(ctx, s)
		if ctx.Err() != nil {
			return false // whatever failed did so for this
		}
		r.note(s, value, err)
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

// measure builds a site, has the contender set it up and the workload work on it,
// and takes it all down again.
func (r *runner) measure(ctx context.Context, s slot) (value report.Value, err error) {
	patience := slotTime + 4*r.duration
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done in %s", patience))
	defer cancel()
	site, err := contender.NewSite(ctx, contender.SiteOptions{IPv6: s.workload.IPv6, Forward: s.workload.Forward})
	if err != nil {
		return report.Value{}, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	options := contender.Options{Flows: s.workload.Flows, CPUs: load.OtherCPUs()}
	running, err := s.contender.SetUp(ctx, site, options)
	if err != nil {
		return report.Value{}, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	work, err := s.workload.Start(ctx, site, r.shared)
	if err != nil {
		return report.Value{}, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	return r.work(ctx, s, site, work)
}

// work warms up, measures, and checks that it was the contender that was measured.
func (r *runner) work(ctx context.Context, s slot, site *contender.Site, work load.Work) (report.Value, error) {
	if !s.workload.SelfTimed {
		if _, err := work.Run(ctx, r.warmUp); err != nil && !errors.Is(err, load.ErrIdle) {
			return report.Value{}, fmt.Errorf("warm up: %w", err)
		}
	}
	before, err := site.Sent()
	if err != nil {
		return report.Value{}, err
	}
	value, err := r.count(ctx, s, work)
	if err != nil {
		return report.Value{}, err
	}
	after, err := site.Sent()
	if err != nil || s.workload.Forward {
		return value, err
	}
	return value, s.contender.CheckWay(before, after)
}

// count measures, and counts the CPU's events for each unit of the work.
func (r *runner) count(ctx context.Context, s slot, work load.Work) (value report.Value, err error) {
	if r.counters == nil || !s.workload.OneCore() {
		value.Value, err = work.Run(ctx, r.duration)
		return value, err
	}
	before, err := r.counters.read()
	if err != nil {
		return report.Value{}, err
	}
	begun := time.Now()
	if value.Value, err = work.Run(ctx, r.duration); err != nil {
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
