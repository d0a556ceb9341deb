// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"replypath/loader/discover"
	"replypath/loader/interfaces"
	"replypath/loader/nexthop"
	"replypath/loader/problems"
	"time"
)

// pollInterval is how often that is looked at of which nothing tells: the mode that is set by hand, who asked a wildcard UDP
// socket, and the addresses that rules of the firewall translate.
const pollInterval = 250 * time.Millisecond

// Run keeps the maps current until ctx ends, which is no error. The datapath
// stays in place.
func (l *Loader) Run(ctx context.Context) error {
	r := &runner{
		core:       l.core,
		slow:       time.NewTicker(slowInterval),
		resolve:    time.NewTimer(0),
		losses:     time.NewTimer(lossInterval),
		polls:      time.NewTicker(pollInterval),
		changes:    newCoalescer(),
		doubts:     newCoalescer(),
		bystanders: newCoalescer(),
	}
	defer r.slow.Stop()
	defer r.resolve.Stop()
	defer r.losses.Stop()
	defer r.polls.Stop()
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
	case <-r.polls.C:
		if !r.poll() {
			return true
		}
	case <-r.resolve.C:
	case <-r.wake:
	}
	r.resolveGateways()
	return true
}

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
	polls      *time.Ticker
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

// event notes what an event is about. That of a gateway, or of a link, is applied at once; the
// result tells whether a gateway may have to be asked since. Of a route most change nothing.
func (r *runner) event(e nexthop.Event, open bool) (mayAsk bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.routes.Lost(&e); err != nil { // the reconciliation tries again
		r.log.Error("replies wait for a route", "error", err)
	}
	switch {
	case !open:
		// Its last event has told why. The slow timer subscribes again.
		r.events = nil
		return false
	case e.Kind == nexthop.KindNeighbour:
		return r.neighbour(e.Neighbour)
	case !r.noteRoutes(e):
		return false
	case r.isOfBystander(&e):
		r.bystanders.note(time.Now())
		return false
	case e.Kind == nexthop.KindLink && e.Removed:
		r.interfaces.Gone(e.Interface)
	case e.Kind == nexthop.KindLink:
		mayAsk = r.link(e)
	case e.Kind == nexthop.KindLost:
		r.log.Warn("events were lost, everything is read again", "error", e.Err)
		problems.LogStack(r.log, e.Err)
		r.verifying = true
		r.interfaces.Suspect()
	}
	r.changes.note(time.Now())
	return mayAsk
}

// noteRoutes has the table of routes follow an event, and tells whether the host has to be looked at.
func (r *runner) noteRoutes(e nexthop.Event) (look bool) {
	look = r.table.Note(&e, r.isManaged)
	if r.table.MayBeWrong() && !r.doubts.isNoted() {
		r.doubts.note(time.Now())
	}
	return look
}

func (r *runner) isManaged(index int) bool { return r.interfaces.Get(index) != nil }

// isOfBystander tells an event by which nothing changes but perhaps the list of the interfaces that are not managed.
func (r *runner) isOfBystander(e *nexthop.Event) bool {
	if e.Interface == 0 || r.isManaged(e.Interface) || r.interfaces.IsRecorded(e.Interface) || r.table.IsDue() {
		return false
	}
	switch e.Kind {
	case nexthop.KindLink:
		return r.last.bystanders.Note(e.Interface, e.LinkKind, e.Removed) && discover.Entry(r.config.Interfaces, e.Name, nil) == nil
	case nexthop.KindAddress:
		return !e.Global
	case nexthop.KindSysctl:
		return true
	}
	return false
}

// readDoubtful reads the routes of which some may have gone, and looks at the host where that matters.
func (r *runner) readDoubtful() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.table.MayBeWrong() {
		changed, err := r.table.Read()
		if changed || err != nil { // which the reconciliation meets as well
			r.look()
		}
	}
	r.doubts.done(time.Now(), max(doubtEvery, r.table.Rest()))
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
	s := r.interfaces.Get(e.Interface)
	if s == nil {
		return false
	}
	if e.NoCarrier {
		s.NoCarrier()
	}
	if err := r.linkChanged(s); err != nil {
		r.log.Error("state of an interface is not updated", "interface", s.Name, "error", err)
	}
	return true
}

// neighbourChanged applies a neighbour event and tells whether it is about a
// gateway.
func (r *runner) neighbourChanged(seen nexthop.Gateway) (bool, error) {
	isGateway, recorded := r.gateways.Neighbour(seen)
	if !isGateway {
		return false, nil
	}
	err := r.writeWays()
	if recorded {
		err = errors.Join(err, r.save())
	}
	return true, err
}

// linkChanged brings MAC, MTU and state of a managed interface up to date.
func (r *runner) linkChanged(m *interfaces.Managed) error {
	isThere, isBack, err := r.interfaces.Refresh(m)
	if !isThere || err != nil {
		return err
	}
	r.publish()
	var errs []error
	if isBack {
		errs = append(errs, r.gateways.CarrierBack(m.Index))
	}
	if !m.Up {
		errs = append(errs, r.gateways.CarrierLost(m.Index))
	}
	return errors.Join(append(errs, r.writeWays())...)
}
