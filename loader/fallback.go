package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/loader/undo"
)

// fallbackRoute is what the loader knows of the fallback routes.
type fallbackRoute struct {
	err      error
	boundErr error              // of the routes for bound sockets
	device   *fallback.Device   // nil while there is none
	served   *datapath.Datapath // whose programs are attached to it
	how      attach.Mechanism   // by which they are
	lost     bool               // they could not be attached, which is tried again
	asked    *ebpf.Program      // by the routes, as this process has told them; nil where it has not
	families []int              // that have the route
	waiting  []int              // that had it, until somebody had deleted it once too often
	deleted  bool               // so was the device, by somebody
	planned  []int              // that would have it if all interfaces were enforced
	defaults []nexthop.Default  // the other default routes
	covered  []nexthop.Covered  // interfaces whose routes are not passed over
	shadowed []nexthop.Shadowed // default routes that keep their family from having one
	// toldCovered are the interfaces that have been logged as covered.
	toldCovered string
	tried       time.Time // when the device was last made, or could not be
}

// scopeFallback is of problems with the fallback routes.
const scopeFallback = "fallback"

// tendFallback makes the fallback routes and their device, or takes them away. What
// cannot be done becomes a problem and is tried again: everything else works without.
func (l *Loader) tendFallback(routers *nexthop.Routers) {
	r := &l.fallback
	l.tellShadowed(routers.Shadowed)
	r.defaults, r.covered, r.shadowed, r.boundErr = routers.Defaults, routers.Covered, routers.Shadowed, nil
	r.planned = nil
	if l.config.FallbackRoute {
		r.planned = l.fallbackFamilies(l.inOrder())
	}
	if l.wantsFallback() {
		r.err = l.arrangeRoutes(routers)
	} else {
		r.err = l.dropFallback(routers)
	}
	l.planRoutes()
	l.problems.replace(scopeFallback, slog.LevelWarn, messages([]error{r.err, r.boundErr}))
}

// tellShadowed logs for which families there is to be no route, where that changes.
func (l *Loader) tellShadowed(now []nexthop.Shadowed) {
	if !l.wantsFallback() || slices.Equal(l.fallback.shadowed, now) {
		return
	}
	for _, s := range now {
		l.log.Info("there is no fallback route: a default route would never be used any more",
			"family", fallback.Name(s.Family), "default", s.Which)
	}
}

// wantsFallback tells whether there is a use for it: in mode observe nothing is
// moved off its device.
func (l *Loader) wantsFallback() bool { return l.config.FallbackRoute && len(l.enforced()) > 0 }

// planRoutes notes what of the routes and their device enforcing would add.
func (l *Loader) planRoutes() {
	observed := l.observed()
	if !l.config.FallbackRoute || len(observed) == 0 {
		return
	}
	if l.state.Fallback == nil {
		l.wouldChange(status.DeviceChange())
	}
	l.wouldChange(status.BoundChanges(l.boundRecords(l.wantedBound(observed, l.fallback.planned)))...)
}

// arrangeFallback makes device and routes. Where that fails, interfaces whose routes give way to a fallback route that is not
// there any more have their settings back.
func (l *Loader) arrangeFallback(routers *nexthop.Routers) error {
	err := l.arrangeFallbackDevice()
	if err == nil {
		err = errors.Join(l.haveRoutesAsk(l.datapath), l.syncFallbackRoutes(routers))
	} else {
		l.fallback.families = l.presentFamilies(routers)
	}
	errs := []error{err, l.haveDefaultsGiveWay()}
	for _, s := range l.inOrder() {
		if s.Up == s.toldDown { // it was down at the start, or an event was lost
			errs = append(errs, l.haveSocketsLookAgain(s))
		}
	}
	return errors.Join(errs...)
}

// arrangeFallbackDevice makes the device as it has to be.
func (l *Loader) arrangeFallbackDevice() error {
	r := &l.fallback
	if errors.Is(r.err, fallback.ErrNoKind) && time.Since(r.tried) < slowInterval/2 {
		return fallback.ErrNoKind // each try has the kernel look for modules
	}
	if err := l.findFallbackDevice(); err != nil {
		return err
	}
	err := errors.Join(l.attachFallback(), fallback.SetMTU(l.netlink, r.device, l.smallestMTU()), fallback.KeepSettings())
	if err != nil {
		return err
	}
	return fallback.SetUp(l.netlink, r.device)
}

// smallestMTU is that of the interfaces that are enforced: replies that are built for the
// device then fit wherever they are moved to.
func (l *Loader) smallestMTU() int {
	mtus := []int{}
	for _, s := range l.enforced() {
		mtus = append(mtus, s.MTU)
	}
	return slices.Min(mtus) // there is at least one
}

// fallbackFamilies are those of which one of the interfaces has an address: without one
// the host could not be asked, and what it starts would have no source to be answered at. A
// default route that would never be used any more keeps its family from having one.
func (l *Loader) fallbackFamilies(interfaces []*served) []int {
	var families []int
	for _, s := range interfaces {
		for _, address := range s.Addresses {
			families = append(families, familyOf(address.Addr()))
		}
	}
	isShadowing := func(family int) bool {
		return slices.ContainsFunc(l.fallback.shadowed, func(s nexthop.Shadowed) bool { return s.Family == family })
	}
	slices.Sort(families)
	return slices.DeleteFunc(slices.Compact(families), isShadowing)
}

// presentFamilies are those that have the route.
func (l *Loader) presentFamilies(routers *nexthop.Routers) (present []int) {
	for _, route := range routers.Fallback {
		if l.fallback.device != nil && route.Interface == l.fallback.device.Index {
			present = append(present, route.Family)
		}
	}
	return present
}

// syncFallbackRoutes has the route for the families that need it.
func (l *Loader) syncFallbackRoutes(routers *nexthop.Routers) error {
	r := &l.fallback
	before, present, wanted := slices.Concat(r.families, r.waiting), l.presentFamilies(routers), l.fallbackFamilies(l.enforced())
	deleted := func(family int) bool { return slices.Contains(before, family) && !slices.Contains(present, family) }
	var again, err error
	r.waiting = nil
	if slices.ContainsFunc(wanted, deleted) && !l.routeRepairs.Allow() {
		r.waiting = slices.DeleteFunc(slices.Clone(wanted), func(family int) bool { return !deleted(family) })
		wanted = slices.DeleteFunc(wanted, deleted)
		again = fmt.Errorf("a fallback route is %w", errDeletedAgain)
	}
	r.families, err = fallback.SyncRoutes(l.netlink, r.device, l.datapath.Gate(), present, wanted)
	for _, family := range r.families {
		if deleted(family) {
			l.countRepair(repairRoute)
			l.log.Warn("a fallback route had been deleted, added again", "family", fallback.Name(family))
		}
	}
	return errors.Join(again, err)
}

// haveSocketsLookAgain has sockets ask for a route anew where the carrier of the default
// route's interface comes or goes. By IPv6 they keep the one that they have: the kernel marks
// routes without a carrier, but tells no socket (net/ipv6/route.c, rt6_sync_down_dev).
func (l *Loader) haveSocketsLookAgain(s *served) error {
	v6 := fallback.Name(unix.AF_INET6)
	if l.fallback.device == nil || !s.enforces() || !l.givesWay(undo.Setting{Device: s.Index, Family: v6, Leaf: ignoreLinkDown}) {
		return nil
	}
	if err := fallback.Renew(l.fallback.device, l.datapath.Gate(), unix.AF_INET6); err != nil {
		return err
	}
	s.toldDown = !s.Up
	return nil
}

// isOfBeforeTrial tells whether the datapath that a trial may have to put back has the device.
func (l *Loader) isOfBeforeTrial() bool {
	trial := l.state.Trial
	return trial != nil && trial.Before != nil && trial.Before.Fallback != nil
}

// dropFallback takes everything away. A start that may still fail, and a trial of which
// the one before has it, leave that for later.
func (l *Loader) dropFallback(routers *nexthop.Routers) error {
	device, err := fallback.Find(l.netlink, l.state.Fallback != nil)
	if err != nil && !errors.Is(err, fallback.ErrForeign) {
		return err
	}
	l.fallback.families = nil
	errs := []error{l.haveDefaultsGiveWay()} // which has nobody's do so
	switch {
	case device == nil:
		errs = append(errs, l.removeFallback(routers, device))
	case l.isOfBeforeTrial():
		l.tx.Leave()
	default:
		errs = append(errs, l.tx.Postpone(func() error { return l.removeFallback(routers, device) }))
	}
	return errors.Join(errs...)
}

// removeFallback takes away the routes for sockets that are bound to a device, and the device if there is one.
func (l *Loader) removeFallback(routers *nexthop.Routers, device *fallback.Device) error {
	left, err := l.removeBound(routers.Bound, nil)
	switch {
	case err != nil:
		l.recordBound(left)
	case device == nil:
		l.fallback = fallbackRoute{
			defaults: l.fallback.defaults, planned: l.fallback.planned, covered: l.fallback.covered, shadowed: l.fallback.shadowed,
		}
		l.state.Fallback = nil
	default:
		err = l.removeFallbackDevice()
		l.log.Info("replies end with the default route from now on", "removed", discover.OwnDevice)
	}
	return err
}

func familyOf(a interface{ Is4() bool }) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// isFallbackActive tells whether the fallback route of a family is all that the
// kernel has to go by.
func (l *Loader) isFallbackActive(family int) bool {
	r := &l.fallback
	return slices.Contains(r.families, family) && !slices.ContainsFunc(r.defaults, func(d nexthop.Default) bool {
		s := l.served[d.Interface]
		return d.Family == family && (s == nil || s.Up)
	})
}

// fallbackFeature describes the fallback routes for the status.
func (l *Loader) fallbackFeature() pins.FeatureRecord {
	f := pins.FeatureRecord{Name: "fallback_route", Available: !errors.Is(l.fallback.err, fallback.ErrNoKind)}
	r := &l.fallback
	switch {
	case !l.config.FallbackRoute:
		f.Effect = "off: replies end with the default route"
	case r.err != nil:
		f.Effect = "replies end with the default route: " + oneLine(r.err)
	case r.device == nil:
		f.Effect = "off: nothing is enforced"
	default:
		f.Effect = fmt.Sprintf("on: without a default route replies are built for %s, of kind %s, and moved off it",
			discover.OwnDevice, r.device.Kind)
		for _, s := range r.shadowed {
			f.Effect += fmt.Sprintf("; not for %s: its default route %s would never be used any more", fallback.Name(s.Family), s.Which)
		}
		if names := l.coveredDefaults(); len(names) > 0 {
			f.Effect += "; when the carrier is lost of " + strings.Join(names, ", ") +
				" only while a daemon runs, as another interface has a route to the same network"
		}
		if r.device.Plain {
			f.Effect += "; as the kernel is built without CONFIG_LWTUNNEL_BPF, masqueraded connections of containers " +
				"do not outlive that, and datagrams of sockets that are not connected are lost without an error"
		}
	}
	return f
}
