// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/problems"
	"replypath/loader/undo"
)

// Routes own the fallback routes, their device with its programs, what gives way to them, and the routes for bound sockets.
type Routes struct {
	host     *Host
	device   ownDevice
	giveWay  giveWay
	bound    boundRoutes
	seen     *view
	err      error
	waiting  []int // families that had the route, until somebody had deleted it once too often
	repairs  *rate.Limiter
	toldDown map[int]bool // sockets have looked for a route since the interface went down, by index
}

// New returns Routes that know of none yet.
func New(host Host) *Routes {
	r := &Routes{host: &host, seen: new(view), repairs: host.Allowance(), toldDown: make(map[int]bool)}
	r.device = ownDevice{host: r.host, repairs: host.Allowance(), programRepairs: host.Allowance()}
	r.giveWay = giveWay{host: r.host, seen: r.seen}
	r.bound = boundRoutes{host: r.host, seen: r.seen}
	return r
}

// Wanted tells whether there is a use for them: in mode observe nothing is moved off their device.
func (r *Routes) Wanted() bool { return r.host.Enabled() && len(r.host.enforcing(true)) > 0 }

// Reconcile makes the routes and their device, or takes them away. What cannot be done is returned, and tried again by the
// next call: everything else works without.
func (r *Routes) Reconcile(routers *nexthop.Routers) error {
	r.tellShadowed(routers.Shadowed)
	r.seen.Routers, r.seen.planned = *routers, nil
	if r.host.Enabled() {
		r.seen.planned = r.familiesOf(r.host.Interfaces())
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
	return r.host.Journal.Fallback == nil, r.bound.records(r.bound.wanted(observed, r.seen.planned))
}

// Replace puts the programs of a datapath in the place of those that are there.
func (r *Routes) Replace(by *datapath.Datapath) error {
	if r.device.found == nil {
		return nil
	}
	return errors.Join(r.device.replace(by), r.device.ask(by, true))
}

// AskNobody has the routes ask no gate while flows are recorded in the tables of two datapaths, neither of which knows all.
// Replace and Reconcile end that. A start that fails has them ask the earlier gate again.
func (r *Routes) AskNobody() error {
	record := r.host.Journal.Fallback
	if record == nil || record.Index == 0 {
		return nil
	}
	device := &Device{Index: record.Index}
	r.host.Tx.OnAbort(func() error { return RenewAll(r.host.Netlink(), device, r.host.Datapath().Earlier().Gate()) })
	r.device.asked = nil
	return RenewAll(r.host.Netlink(), device, nil)
}

// HasLost tells whether somebody has taken programs off the device, or whether they are back that could not be put back
// so far.
func (r *Routes) HasLost(now time.Time) bool { return r.device.hasLost(now) }

// Renew has sockets look for an IPv6 route anew, where there is the device.
func (r *Routes) Renew() (hasDevice bool, err error) {
	if r.device.found == nil {
		return false, nil
	}
	return true, renew(r.device.found, r.host.Datapath().Gate(), unix.AF_INET6)
}

// GivesWay tells whether routes by an interface give way to the route of a family when the carrier is lost.
func (r *Routes) GivesWay(device, family int) bool {
	return r.giveWay.isFor(undo.Setting{Device: device, Family: Name(family), Leaf: ignoreLinkDown})
}

// Defaults are the other default routes.
func (r *Routes) Defaults() []nexthop.Default { return r.seen.Defaults }

// IsActive tells whether the fallback route of a family is all that the kernel has to go by.
func (r *Routes) IsActive(family int) bool {
	interfaces := r.host.Interfaces()
	isDown := func(device int) bool {
		return slices.ContainsFunc(interfaces, func(i Interface) bool { return i.Index == device && !i.Up })
	}
	return slices.Contains(r.seen.families, family) && !slices.ContainsFunc(r.seen.Defaults, func(d nexthop.Default) bool {
		return d.Family == family && !isDown(d.Interface)
	})
}

// tellShadowed logs for which families there is to be no route, where that changes.
func (r *Routes) tellShadowed(now []nexthop.Shadowed) {
	if !r.Wanted() || slices.Equal(r.seen.Shadowed, now) {
		return
	}
	for _, s := range now {
		r.host.Log.Info("there is no fallback route: a default route would never be used any more",
			"family", Name(s.Family), "default", s.Which)
	}
}

// arrange makes device and routes, and those for bound sockets. Where that fails, interfaces whose routes give way to a
// fallback route that is not there any more have their settings back.
func (r *Routes) arrange() (boundErr, err error) {
	enforced := r.host.enforcing(true)
	present, removeErr := r.bound.remove(r.seen.Bound, r.bound.wanted(enforced, r.familiesOf(enforced)))
	if err = r.arrangeDevice(enforced); err == nil {
		err = errors.Join(r.device.ask(r.host.Datapath(), len(r.present()) > 0), r.sync(enforced))
	} else {
		r.seen.families = r.present()
	}
	errs := []error{err, r.giveWay.arrange(r.device.found)}
	for _, i := range r.host.Interfaces() {
		if i.Up == r.toldDown[i.Index] { // it was down at the start, or an event was lost
			errs = append(errs, r.haveSocketsLookAgain(&i))
		}
	}
	wanted := r.bound.wanted(enforced, r.seen.families)
	present, restErr := r.bound.remove(present, wanted)
	present, addErr := r.bound.add(present, wanted)
	r.bound.record(present)
	return errors.Join(removeErr, restErr, addErr), errors.Join(errs...)
}

// arrangeDevice makes the device as it has to be.
func (r *Routes) arrangeDevice(enforced []Interface) error {
	if errors.Is(r.err, errNoKind) && time.Since(r.device.tried) < r.host.RetryAfter {
		return errNoKind // each try has the kernel look for modules
	}
	again, err := r.device.find()
	if again || r.device.found == nil {
		r.seen.families, r.waiting = nil, nil // they went with the one before
	}
	if err != nil {
		return err
	}
	return r.device.arrange(enforced)
}

// familiesOf are those of which one of the interfaces has an address: without one the host could not be asked, and what
// it starts would have no source to be answered at. A default route that would never be used any more keeps its family
// from having one.
func (r *Routes) familiesOf(interfaces []Interface) []int {
	var families []int
	for _, i := range interfaces {
		for _, address := range i.Addresses {
			families = append(families, familyOf(address.Addr()))
		}
	}
	isShadowing := func(family int) bool {
		return slices.ContainsFunc(r.seen.Shadowed, func(s nexthop.Shadowed) bool { return s.Family == family })
	}
	slices.Sort(families)
	return slices.DeleteFunc(slices.Compact(families), isShadowing)
}

// present are the families that had the route when the routes were read.
func (r *Routes) present() (present []int) {
	for _, route := range r.seen.Fallback {
		if r.device.found != nil && route.Interface == r.device.found.Index {
			present = append(present, route.Family)
		}
	}
	return present
}

// sync has the route for the families that need it.
func (r *Routes) sync(enforced []Interface) error {
	before, present, wanted := slices.Concat(r.seen.families, r.waiting), r.present(), r.familiesOf(enforced)
	deleted := func(family int) bool { return slices.Contains(before, family) && !slices.Contains(present, family) }
	var again, err error
	r.waiting = nil
	if slices.ContainsFunc(wanted, deleted) && !r.repairs.Allow() {
		r.waiting = slices.DeleteFunc(slices.Clone(wanted), func(family int) bool { return !deleted(family) })
		wanted = slices.DeleteFunc(wanted, deleted)
		again = fmt.Errorf("a fallback route is %w", errDeletedAgain)
	}
	r.seen.families, err = syncRoutes(r.host.Netlink(), r.device.found, r.host.Datapath().Gate(), present, wanted)
	for _, family := range r.seen.families {
		if deleted(family) {
			r.host.RepairedRoute()
			r.host.Log.Warn("a fallback route had been deleted, added again", "family", Name(family))
		}
	}
	return errors.Join(again, err)
}

// LinkChanged has sockets ask for a route anew where the carrier of the default route's interface comes or goes, once more
// for each event: the first may come before the kernel has marked its routes.
func (r *Routes) LinkChanged(i *Interface) error {
	if i.Up && !r.toldDown[i.Index] {
		return nil
	}
	return r.haveSocketsLookAgain(i)
}

// haveSocketsLookAgain has IPv6 sockets ask for a route anew. They keep the one that they have: the kernel marks routes
// without a carrier, but tells no socket (net/ipv6/route.c, rt6_sync_down_dev).
func (r *Routes) haveSocketsLookAgain(i *Interface) error {
	if r.device.found == nil || !i.Enforces || !r.GivesWay(i.Index, unix.AF_INET6) {
		return nil
	}
	if _, err := r.Renew(); err != nil {
		return err
	}
	r.toldDown[i.Index] = !i.Up
	return nil
}

// Forget forgets an interface that is not managed any more.
func (r *Routes) Forget(device int) { delete(r.toldDown, device) }

// drop takes everything away. A start that may still fail, and a trial of which the one before has it, leave that for
// later.
func (r *Routes) drop() error {
	device, err := Find(r.host.Netlink(), r.host.Journal.Fallback != nil)
	if err != nil && !errors.Is(err, ErrForeign) {
		return err
	}
	r.seen.families = nil
	errs := []error{r.giveWay.arrange(r.device.found)} // which has nobody's do so
	switch {
	case device == nil:
		errs = append(errs, r.remove(false))
	case r.isOfBeforeTrial():
		r.host.Tx.Leave()
	default:
		errs = append(errs, r.host.Tx.Postpone(func() error { return r.remove(true) }))
	}
	return errors.Join(errs...)
}

// isOfBeforeTrial tells whether the datapath that a trial may have to put back has the device.
func (r *Routes) isOfBeforeTrial() bool {
	trial := r.host.Journal.Trial
	return trial != nil && trial.Before != nil && trial.Before.Fallback != nil
}

// remove takes away the routes for sockets that are bound to a device, and the device if there is one.
func (r *Routes) remove(hasDevice bool) error {
	left, err := r.bound.remove(r.seen.Bound, nil)
	if err != nil {
		r.bound.record(left)
		return err
	}
	r.waiting = nil
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
		for _, s := range r.seen.Shadowed {
			f.Effect += fmt.Sprintf("; not for %s: its default route %s would never be used any more", Name(s.Family), s.Which)
		}
		if names := r.giveWay.covered(); len(names) > 0 {
			f.Effect += "; when the carrier is lost of " + strings.Join(names, ", ") +
				" only while a daemon runs, as another interface has a route to the same network"
		}
		if device.Plain {
			f.Effect += "; as the kernel is built without CONFIG_LWTUNNEL_BPF, masqueraded connections of containers " +
				"do not outlive that, and datagrams of sockets that are not connected are lost without an error"
		}
	}
	return f
}
