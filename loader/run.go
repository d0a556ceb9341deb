// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"time"
)

// modeInterval is how often the mode is looked at that is set by hand: one entry of a map, of which nothing tells.
const modeInterval = 250 * time.Millisecond

// Run keeps the maps current until ctx ends, which is no error. The datapath
// stays in place.
func (l *Loader) Run(ctx context.Context) error {
	r := &runner{
		core:       l.core,
		slow:       time.NewTicker(slowInterval),
		resolve:    time.NewTimer(0),
		losses:     time.NewTimer(lossInterval),
		mode:       time.NewTicker(modeInterval),
		changes:    newCoalescer(),
		doubts:     newCoalescer(),
		bystanders: newCoalescer(),
	}
	defer r.slow.Stop()
	defer r.resolve.Stop()
	defer r.losses.Stop()
	defer r.mode.Stop()
	defer r.changes.timer.Stop()
	defer r.doubts.timer.Stop()
	defer r.bystanders.timer.Stop()
	r.mu.Lock()
	r.loadAhead()
	r.mu.Unlock()
	for cannotPass := false; r.step(ctx); {
		r.published.Pass()
		err := r.dir.Pass()
		if err != nil && !cannotPass { // once
			r.log.Warn("cannot note that the loop goes round", "error", err)
		}
		cannotPass = err != nil
		if r.options.Passed != nil {
			r.options.Passed()
		}
	}
	return nil
}

// step waits for the next thing to do and does it; false at the end.
func (r *runner) step(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case event, open := <-r.events:
		if !r.event(event, open) {
			return true // no gateway is to be asked sooner than before
		}
	case <-r.changes.timer.C:
		r.reconcileNow()
	case <-r.bystanders.timer.C:
		r.reconcileNow()
	case <-r.doubts.timer.C:
		r.readDoubtful()
	case <-r.slow.C:
		r.lookAtAll()
	case <-r.losses.C:
		r.lookForLosses()
		return true
	case <-r.mode.C:
		if !r.lookAtMode() {
			return true
		}
	case <-r.rules.Changed():
		r.changes.note(time.Now())
		return true
	case <-r.asked:
		r.socketAsked()
		return true
	case <-r.resolve.C:
	case <-r.wake:
	}
	r.resolveGateways()
	return true
}
