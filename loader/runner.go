// SPDX-License-Identifier: Apache-2.0

package loader

import "time"

const (
	// Changes come in groups: a reconciliation waits until they have been quiet
	// for a moment, but no longer than patience.
	quiet    = 20 * time.Millisecond
	patience = 200 * time.Millisecond
	// restFactor bounds the share of time that goes into reading the tables of a
	// host where they are large and change all the time: a reconciliation comes
	// no sooner than so many times as long as it last took to read them.
	restFactor = 4
	// longRestFactor is the same for what may wait: the list of interfaces that are not managed.
	longRestFactor = 200
	// retryAfter is when a reconciliation that failed is tried again, at the earliest; each further time takes twice as long.
	retryAfter = time.Second
	// doubtEvery is the same for reading all routes because one may have been the last of its kind: see nexthop.Table.
	doubtEvery = time.Second
)

// runner is what Run waits for.
type runner struct {
	*core
	slow       *time.Ticker
	resolve    *time.Timer
	losses     *time.Timer
	mode       *time.Ticker
	changes    *coalescer
	doubts     *coalescer    // about the routes
	bystanders *coalescer    // changes of interfaces that cannot become managed
	retry      time.Duration // after which what failed last is tried again
}

func (r *runner) reconcileNow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
}

// look reconciles. What failed is tried again without an event, as none may come.
func (r *runner) look() {
	if r.reconcileOrLog() {
		r.retry = 0
	} else {
		r.retry = min(max(retryAfter, 2*r.retry), slowInterval)
	}
	r.loadAhead()
	now := time.Now()
	r.changes.done(now, max(restFactor*r.last.readingTook, r.retry))
	r.bystanders.done(now, r.longRest())
	if r.retry > 0 {
		r.changes.note(now)
	}
}

// loadAhead loads the program that catches replies on a device without an Ethernet header, where there is one: when a route
// leads out of that, there is no time for the verifier. That it cannot be loaded is told when it is needed.
func (r *runner) loadAhead() {
	if r.last.headerless && len(r.interfaces.All()) > 0 {
		_, _ = r.datapath.Programs(false, true)
	}
}

// longRest bounds the share of time that goes into looking for what may wait.
func (r *runner) longRest() time.Duration {
	return min(longRestFactor*r.last.readingTook, slowInterval)
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

func (c *coalescer) isNoted() bool { return !c.first.IsZero() }

// done tells that everything that was noted has been looked at, and for how long that is not to be done again.
func (c *coalescer) done(now time.Time, rest time.Duration) {
	c.first = time.Time{}
	c.rest = now.Add(rest)
	c.timer.Stop()
}
