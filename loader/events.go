// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"time"

	"replypath/loader/discover"
	"replypath/loader/interfaces"
	"replypath/loader/nexthop"
)

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
	if isBack {
		r.gateways.CarrierBack(m.Index)
	}
	now := ofFallback(m)
	errs := []error{r.routes.LinkChanged(&now)}
	if !m.Up {
		errs = append(errs, r.gateways.CarrierLost(m.Index))
	}
	return errors.Join(append(errs, r.writeWays())...)
}
