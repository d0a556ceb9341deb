// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/problems"
)

// Routes own the fallback routes, their device with its programs, and the routes for bound sockets.
type Routes struct {
	host    *Host
	device  ownDevice
	bound   boundRoutes
	rules   ruleSet
	seen    *view
	err     error
	kept    []nexthop.OwnRoute // to the device, as they were left last, with those that somebody had deleted once too often
	repairs *rate.Limiter
}

// New returns Routes that know of none yet.
func New(host Host) *Routes {
	r := &Routes{host: &host, seen: new(view), repairs: host.Allowance()}
	r.device = ownDevice{host: r.host, repairs: host.Allowance(), programRepairs: host.Allowance()}
	r.bound = boundRoutes{host: r.host, seen: r.seen}
	r.rules = ruleSet{host: r.host, repairs: host.Allowance()}
	return r
}

// Wanted tells whether there is a use for them: in mode observe nothing is moved off their device.
func (r *Routes) Wanted() bool { return r.host.Enabled() && len(r.host.enforcing(true)) > 0 }

// Reconcile makes the routes and their device, or takes them away. What cannot be done is returned, and tried again by the
// next call: everything else works without.
func (r *Routes) Reconcile(routers *nexthop.Routers) error {
	r.seen.Routers, r.seen.planned = *routers, nil
	r.lookForDefaults()
	if r.host.Enabled() {
		r.seen.planned = familiesOf(r.host.Interfaces())
	}
	var boundErr error
	if r.Wanted() {
		boundErr, r.err = r.arrange()
	} else {
		r.err = r.drop()
	}
	return errors.Join(r.err, boundErr)
}

// Planned tells what of them enforcing all interfaces would add.
func (r *Routes) Planned() (device bool, bound []pins.BoundRecord) {
	observed := r.host.enforcing(false)
	if !r.host.Enabled() || len(observed) == 0 {
		return false, nil
	}
	return r.host.Journal.Fallback == nil, r.bound.records(r.bound.hops(observed, r.seen.planned))
}

// Replace puts the programs of a datapath in the place of those that are there.
func (r *Routes) Replace(by *datapath.Datapath) error {
	if r.device.found == nil {
		return nil
	}
	return r.device.replace(by)
}

// HasLost tells whether somebody has taken programs off the device, whether they are back that could not be put back
// so far, or whether a socket has been bound to an interface.
func (r *Routes) HasLost(now time.Time) bool {
	return r.device.hasLost(now) || r.bound.lookForSockets()
}

// Renew has sockets look for an IPv6 route anew, where there is the device.
func (r *Routes) Renew() (hasDevice bool, err error) {
	if r.device.found == nil {
		return false, nil
	}
	return true, haveSocketsForget(r.host.Netlink(), r.device.found, unix.AF_INET6)
}

// Defaults are the other default routes.
func (r *Routes) Defaults() []nexthop.Default { return r.seen.Defaults }

// IsActive tells whether the fallback route of a family is all that the kernel has to go by.
func (r *Routes) IsActive(family int) bool {
	r.lookForDefaults()
	return slices.Contains(r.seen.families, family) && slices.Contains(r.seen.bereft, family)
}

// lookForDefaults notes which families have no default route but by interfaces that are down.
func (r *Routes) lookForDefaults() {
	interfaces := r.host.Interfaces()
	isDown := func(device int) bool {
		return slices.ContainsFunc(interfaces, func(i Interface) bool { return i.Index == device && !i.Up })
	}
	r.seen.bereft = slices.DeleteFunc(slices.Clone(Families), func(family int) bool {
		return slices.ContainsFunc(r.seen.Defaults, func(d nexthop.Default) bool { return d.Family == family && !isDown(d.Interface) })
	})
}

// wantedRules are those that these families need now.
func (r *Routes) wantedRules(enforced []Interface, families []int) (rules []rule) {
	isStrong := slices.ContainsFunc(enforced, func(i Interface) bool { return i.Settings.HostModel == config.HostModelStrong })
	for _, family := range families {
		switch {
		case !slices.Contains(r.seen.bereft, family):
		case isStrong: // what the host begins by an interface's address leaves by that
			rules = append(append(rules, rule{family: family, priority: Priority, local: true}), portRules(family)...)
		default:
			rules = append(rules, replyRules(family, r.host.Protocols())...)
		}
	}
	for _, hop := range r.bound.hops(enforced, families) {
		if r.bound.isRuled(hop) {
			rules = append(rules, rule{family: hop.Family, priority: Priority, device: r.host.NameOf(hop.Interface)})
		}
	}
	return rules
}

// Lost has replies built at once where an event tells that a default route has gone, or an interface that may hold one.
func (r *Routes) Lost(e *nexthop.Event) error {
	isDefault := e.Kind == nexthop.KindRoute && e.Removed && e.Route.Dst.Bits() == 0 && e.Route.Table == unix.RT_TABLE_MAIN
	isDown := e.Kind == nexthop.KindLink && (e.Removed || e.NoCarrier)
	if !isDefault && !isDown {
		return nil
	}
	r.seen.Defaults = slices.DeleteFunc(slices.Clone(r.seen.Defaults), func(d nexthop.Default) bool {
		if e.Kind == nexthop.KindLink {
			return d.Interface == e.Interface
		}
		isOf := func(h dump.Hop) bool { return h.Interface == d.Interface && h.Gateway == d.Gateway }
		return d.Family == e.Route.Family && slices.ContainsFunc(e.Route.Hops, isOf)
	})
	return r.bridge()
}

// bridge adds the rules of families that have just lost their last default route, and takes their routes from where what
// the host begins finds them. The next reconciliation does the rest.
func (r *Routes) bridge() error {
	if r.device.found == nil {
		return nil
	}
	r.lookForDefaults()
	wanted := r.wantedRules(r.host.enforcing(true), r.seen.families)
	err := r.rules.addMissing(slices.DeleteFunc(wanted, func(w rule) bool { return slices.Contains(r.rules.kept, w) }))
	if err != nil {
		return err
	}
	placed := func(routes []nexthop.OwnRoute) []nexthop.OwnRoute {
		return slices.DeleteFunc(slices.Clone(routes), func(route nexthop.OwnRoute) bool {
			return !slices.Contains(r.seen.tables(route.Family), route.Table)
		})
	}
	present := r.kept
	r.seen.Bound, err = r.bound.remove(r.seen.Bound, placed(r.seen.Bound))
	r.kept = placed(present)
	return errors.Join(err, removeRoutes(r.host.Netlink(), present, r.kept))
}

// arrange makes device and routes, those for bound sockets, and the rules: these come before another way goes, and go after
// it has come.
func (r *Routes) arrange() (boundErr, err error) {
	enforced := r.host.enforcing(true)
	planned := familiesOf(enforced)
	r.bound.lookForSockets()
	err = r.arrangeDevice(enforced)
	var rules []rule // also where a route cannot be added: to add and remove them would be news that leads here again
	if r.device.found != nil {
		rules = r.wantedRules(enforced, planned)
	}
	rulesErr := r.rules.add(rules)
	present, removeErr := r.bound.remove(r.seen.Bound, r.bound.wanted(enforced, planned))
	if err == nil {
		err = r.sync(planned)
	} else {
		r.seen.families = r.seen.served(r.device.found, planned, r.present())
	}
	wanted := r.bound.wanted(enforced, r.seen.families)
	present, restErr := r.bound.remove(present, wanted)
	present, addErr := r.bound.add(present, wanted)
	r.bound.record(present)
	r.seen.Bound = present
	return errors.Join(removeErr, restErr, addErr), errors.Join(err, rulesErr, r.removeRules(rules))
}

// removeRules removes all but the wanted rules. IPv6 sockets that remember a route to which one of them has led look for
// one anew; IPv4's do by themselves.
func (r *Routes) removeRules(wanted []rule) error {
	of, err := r.rules.remove(wanted)
	if slices.Contains(of, unix.AF_INET6) && r.device.found != nil {
		err = errors.Join(err, renew(r.host.Netlink(), r.device.found, unix.AF_INET6))
	}
	return err
}

// arrangeDevice makes the device as it has to be.
func (r *Routes) arrangeDevice(enforced []Interface) error {
	if errors.Is(r.err, errNoKind) && time.Since(r.device.tried) < r.host.RetryAfter {
		return errNoKind // each try has the kernel look for modules
	}
	again, err := r.device.find()
	if again || r.device.found == nil {
		r.seen.families, r.kept = nil, nil // they went with the one before
	}
	if err != nil {
		return err
	}
	return r.device.arrange(enforced)
}

// familiesOf are those of which one of the interfaces has an address: without one the host could not be asked, and what
// it starts would have no source to be answered at.
func familiesOf(interfaces []Interface) []int {
	var families []int
	for _, i := range interfaces {
		for _, address := range i.Addresses {
			families = append(families, familyOf(address.Addr()))
		}
	}
	slices.Sort(families)
	return slices.Compact(families)
}

// present are the routes to the device that were there when the routes were read.
func (r *Routes) present() []nexthop.OwnRoute {
	return slices.DeleteFunc(slices.Clone(r.seen.Fallback), func(route nexthop.OwnRoute) bool {
		return r.device.found == nil || route.Interface != r.device.found.Index
	})
}

// sync has the routes for the families that need them, and no others.
func (r *Routes) sync(families []int) error {
	before, present := r.kept, r.present()
	var wanted []nexthop.OwnRoute
	for _, family := range families {
		wanted = append(wanted, routesBy(r.device.found.hop(family), r.seen.tables(family)...)...)
	}
	isDeleted := func(route nexthop.OwnRoute) bool {
		return slices.Contains(before, route) && !slices.Contains(present, route)
	}
	var again error
	allowed, waiting := wanted, []nexthop.OwnRoute(nil)
	if slices.ContainsFunc(wanted, isDeleted) && !r.repairs.Allow() {
		waiting = slices.DeleteFunc(slices.Clone(wanted), func(route nexthop.OwnRoute) bool { return !isDeleted(route) })
		allowed = slices.DeleteFunc(slices.Clone(wanted), isDeleted)
		again = fmt.Errorf("a fallback route is %w", errDeletedAgain)
	}
	there, err := addRoutes(r.host.Netlink(), present, allowed)
	r.kept = slices.Concat(there, waiting)
	isOf := func(family int, has func(nexthop.OwnRoute) bool) bool {
		return slices.ContainsFunc(wanted, func(route nexthop.OwnRoute) bool { return route.Family == family && has(route) })
	}
	isMissing := func(route nexthop.OwnRoute) bool { return !slices.Contains(there, route) }
	r.seen.families = slices.DeleteFunc(families, func(family int) bool { return isOf(family, isMissing) })
	for _, family := range r.seen.families {
		if isOf(family, isDeleted) {
			r.host.RepairedRoute()
			r.host.Log.Warn("a fallback route had been deleted, added again", "family", Name(family))
		}
	}
	return errors.Join(again, err, removeRoutes(r.host.Netlink(), present, wanted))
}

// drop takes everything away. A start that may still fail, and a trial of which the one before has it, leave that for
// later.
func (r *Routes) drop() error {
	device, err := Find(r.host.Netlink(), r.host.Journal.Fallback != nil)
	if err != nil && !errors.Is(err, ErrForeign) {
		return err
	}
	r.seen.families, r.kept = nil, nil
	switch {
	case device == nil:
		return r.remove(false)
	case isOfBeforeTrial(r.host.Journal.Trial):
		r.host.Tx.Leave()
		return nil
	}
	return r.host.Tx.Postpone(func() error { return r.remove(true) })
}

// isOfBeforeTrial tells whether the datapath that a trial may have to put back has the device.
func isOfBeforeTrial(trial *pins.TrialRecord) bool {
	return trial != nil && trial.Before != nil && trial.Before.Fallback != nil
}

// remove takes away the routes for sockets that are bound to a device, and the device if there is one.
func (r *Routes) remove(hasDevice bool) error {
	err := errors.Join(r.rules.add(nil), r.removeRules(nil))
	if err != nil {
		return err
	}
	left, err := r.bound.remove(r.seen.Bound, nil)
	if err != nil {
		r.bound.record(left)
		return err
	}
	if !hasDevice {
		r.device.forget()
		return nil
	}
	err = r.device.remove()
	r.host.Log.Info("replies end with the default route from now on", "removed", discover.OwnDevice)
	return err
}

// Feature describes them for the status.
func (r *Routes) Feature() pins.FeatureRecord {
	f := pins.FeatureRecord{Name: "fallback_route", Available: !errors.Is(r.err, errNoKind)}
	switch device := r.device.found; {
	case !r.host.Enabled():
		f.Effect = "off: replies end with the default route"
	case r.err != nil:
		f.Effect = "replies end with the default route: " + problems.OneLine(r.err)
	case device == nil:
		f.Effect = "off: nothing is enforced"
	default:
		f.Effect = fmt.Sprintf("on: without a default route replies are built for %s, of kind %s, and moved off it",
			discover.OwnDevice, device.Kind)
	}
	return f
}
