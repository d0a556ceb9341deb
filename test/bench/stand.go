// SPDX-License-Identifier: Apache-2.0

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

// stand is where a slot is measured: a network of its own, where the contender has been set up and
// the work waits for its turn.
type stand struct {
	slot
	site   *contender.Site
	work   load.Work
	closes []func() error
	begun  contender.Sent // what had left the server when it was warm
	values []report.Value // of each turn
	err    error          // after which it has no more turns
}

// setUp builds a stand. It has to be closed, also where its err says what failed.
func (r *runner) setUp(ctx context.Context, s slot) *stand {
	st := &stand{slot: s}
	st.err = st.build(ctx, r.shared)
	return st
}

func (st *stand) build(ctx context.Context, shared *load.Shared) error {
	w := st.workload
	site, err := contender.NewSite(ctx, w.Site())
	if err != nil {
		return err
	}
	st.site, st.closes = site, append(st.closes, site.Close)
	running, err := st.contender.SetUp(ctx, site, contender.Options{Flows: w.Flows, CPUs: load.OtherCPUs()})
	if err != nil {
		return err
	}
	st.closes = append(st.closes, running.Stop)
	if st.work, err = w.Start(ctx, site, shared); err != nil {
		return err
	}
	st.closes = append(st.closes, st.work.Close)
	st.begun, err = site.Sent()
	return err
}

// warmUp works for a time that does not count.
func (st *stand) warmUp(ctx context.Context, d time.Duration) (err error) {
	if _, err := st.work.Run(ctx, d); err != nil && !errors.Is(err, load.ErrIdle) {
		return fmt.Errorf("warm up: %w", err)
	}
	st.begun, err = st.site.Sent()
	return err
}

// checkWay returns an error where it was not the contender that was measured.
func (st *stand) checkWay() error {
	sent, err := st.site.Sent()
	if err != nil || st.workload.Forward {
		return err
	}
	return st.contender.CheckWay(st.begun, sent)
}

// close takes it all down again.
func (st *stand) close() error {
	var errs []error
	for i := len(st.closes) - 1; i >= 0; i-- {
		errs = append(errs, st.closes[i]())
	}
	return errors.Join(errs...)
}
