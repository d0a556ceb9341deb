package loader

import (
	"context"
	"time"
)

const (
	// Changes come in groups: a reconciliation waits until they have been quiet
	// for a moment, but no longer than patience.
	quiet    = 20 * time.Millisecond
	patience = 200 * time.Millisecond
	// restFactor bounds the share of time that goes into reading the tables of a
	// host where they are large and change all the time: a reconciliation comes
	// no sooner than so many times as long as it last took to read them.
	restFactor = 4
	// modeInterval is how often the mode is looked at that is set by hand: one entry of a map, of which nothing tells.
	modeInterval = 250 * time.Millisecond
	// lossInterval is how often the hooks are looked at: nothing tells of a TCX
	// link that somebody detaches.
	lossInterval = 500 * time.Millisecond
	// lossRest bounds the share of a processor that this takes where there are many
	// interfaces.
	lossRest = 20
)

// Run keeps the maps current until ctx ends, which is no error. The datapath
// stays in place.
func (l *Loader) Run(ctx context.Context) error {
	r := &runner{
		core:    l.core,
		slow:    time.NewTicker(slowInterval),
		resolve: time.NewTimer(0),
		losses:  time.NewTimer(lossInterval),
		mode:    time.NewTicker(modeInterval),
		changes: newCoalescer(),
	}
	defer r.slow.Stop()
	defer r.resolve.Stop()
	defer r.losses.Stop()
	defer r.mode.Stop()
	defer r.changes.timer.Stop()
	for r.step(ctx) {
	}
	return nil
}

// runner is what Run waits for.
type runner struct {
	*core
	slow    *time.Ticker
	resolve *time.Timer
	losses  *time.Timer
	mode    *time.Ticker
	changes *coalescer
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
	case <-r.slow.C:
		r.lookAtAll()
	case <-r.losses.C:
		r.lookForLosses()
		return true
	case <-r.mode.C:
		if !r.lookAtMode() {
			return true
		}
	case <-r.asked:
		r.socketAsked()
		return true
	case <-r.resolve.C:
	case <-r.wake:
	}
	r.resolveGateways()
	return true
}

func (r *runner) reconcileNow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reconcileOrLog()
	r.changes.done(time.Now(), r.last.readingTook)
}

// coalescer turns groups of changes into one reconciliation each.
type coalescer struct {
	timer *time.Timer
	first time.Time // zero: nothing has changed
	rest  time.Time // not before
}

func newCoalescer() *coalescer {
	c := &coalescer{timer: time.NewTimer(time.Hour)}
	c.timer.Stop()
	return c
}

// note sets the timer for a change and returns when it is due.
func (c *coalescer) note(now time.Time) time.Time {
	if c.first.IsZero() {
		c.first = now
	}
	at := now.Add(quiet)
	if last := c.first.Add(patience); at.After(last) {
		at = last
	}
	if at.Before(c.rest) {
		at = c.rest
	}
	c.timer.Reset(at.Sub(now))
	return at
}

// done tells that everything that was noted has been looked at.
func (c *coalescer) done(now time.Time, took time.Duration) {
	c.first = time.Time{}
	c.rest = now.Add(restFactor * took)
	c.timer.Stop()
}
