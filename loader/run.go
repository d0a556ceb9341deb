package loader

import (
	"context"
	"log/slog"
	"runtime"
	"time"

	"replypath/loader/nexthop"
)

const (
	// slowInterval is how often everything is looked at without an event.
	slowInterval = 30 * time.Second
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
		Loader:  l,
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
	*Loader
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

// event notes what an event is about. That of a gateway, or of a link, is applied at once; the
// result tells whether a gateway may have to be asked since.
func (r *runner) event(e nexthop.Event, open bool) (mayAsk bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !open:
		// Its last event has told why. The slow timer subscribes again.
		r.events = nil
		return false
	case e.Kind == nexthop.KindNeighbour:
		return r.neighbour(e.Neighbour)
	case e.Kind == nexthop.KindLink && e.Removed:
		r.removed[e.Interface] = true
	case e.Kind == nexthop.KindLink:
		mayAsk = r.link(e)
	case e.Kind == nexthop.KindLost:
		r.log.Warn("events were lost, everything is read anew", "error", e.Err)
		r.verifying, r.suspicious = true, true
	}
	r.changes.note(time.Now())
	return mayAsk
}

// neighbour tells whether an entry is that of a gateway.
func (r *runner) neighbour(seen nexthop.Gateway) bool {
	isGateway, err := r.neighbourChanged(seen)
	if isGateway {
		r.publish()
	}
	if err != nil {
		r.log.Error("gateway is not updated", "gateway", seen.Address, "error", err)
		r.changes.note(time.Now())
	}
	return isGateway
}

// link applies the state of a link at once, and tells whether it is served. Whatever else
// has changed with it can wait.
func (r *runner) link(e nexthop.Event) bool {
	s := r.served[e.Interface]
	if s == nil {
		return false
	}
	if e.NoCarrier {
		s.lostCarrier = true
	}
	if err := r.linkChanged(e.Interface); err != nil {
		r.log.Error("state of an interface is not updated", "interface", s.Name, "error", err)
	}
	return true
}

func (r *runner) reconcileNow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reconcileOrLog()
	r.changes.done(time.Now(), r.readingTook)
}

func (l *Loader) reconcileOrLog() {
	l.problems.replace(scopeNamespace, slog.LevelError, messages([]error{l.reconcile()}))
}

// lookAtAll is what the slow timer does.
func (r *runner) lookAtAll() {
	r.mu.Lock()
	if r.events == nil {
		r.stopEvents()
		if err := r.watch(); err != nil {
			r.log.Error("changes are seen late", "error", err)
		}
		r.suspicious = true
	}
	r.verifying = true
	r.source.LookAgain()
	r.mu.Unlock()
	r.reconcileNow()
}

// lookAtMode changes the host with a mode that somebody has switched, and tells whether one has.
func (r *runner) lookAtMode() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.noteMode() {
		return false
	}
	r.reconcileOrLog()
	r.changes.done(time.Now(), r.readingTook)
	return true
}

// lookForLosses has a reconciliation put back programs that somebody has taken
// off, and sysctls. Until then the event is there that tells whether the interface
// went.
func (r *runner) lookForLosses() {
	r.mu.Lock()
	defer r.mu.Unlock()
	runtime.LockOSThread() // whose time is measured
	defer runtime.UnlockOSThread()
	begun, before := time.Now(), threadTime()
	if r.tendPins(begun) {
		r.verifying = true
		r.source.LookAgain()
		r.changes.note(begun)
	}
	if !r.verifying && r.tendLosses(begun) { // else the next reconciliation looks
		r.verifying = true
		r.changes.note(begun)
	}
	if r.sysctls.Drifted() {
		r.changes.note(begun)
	}
	r.publish()
	r.losses.Reset(max(lossInterval, lossRest*(threadTime()-before), time.Since(begun)))
}

// resolveGateways has gateways resolved whose time has come, and sets the timer
// for the next.
func (r *runner) resolveGateways() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.gateways.Due(now)
	r.publish()
	if next := r.gateways.Next(); next.IsZero() {
		r.resolve.Stop()
	} else {
		r.resolve.Reset(next.Sub(now))
	}
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
