package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"replypath/loader/fallback"
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// giveWay are the settings that have the kernel pass over a default route that leads
// nowhere, in favour of the fallback route, and come back to it. They are changed in this
// order: what a route needs that gives way is there before it does.
var giveWay = []giveWaySetting{
	// Sockets keep their IPv6 route by an interface without a carrier until somebody has them
	// look anew. So long its gateway's entry serves them, if it stays; from 5.16. Without it, a
	// segment that is sent meanwhile waits for an answer for three seconds, and TCP repeats none
	// that waits (skb_still_in_host_queue() in net/ipv4/tcp_output.c).
	{"ipv6", "ndisc_evict_nocarrier", "0"},
	// Seconds. A dead router that has been passed over is asked as often whether it is back; without
	// the fallback route every packet would ask (fib6_table_lookup() in net/ipv6/route.c). Only where it is the only one:
	// while it is asked, the kernel sends to it and not to another (rt6_check_neigh()).
	{"ipv6", routerProbeInterval, "1"},
	{"ipv4", ignoreLinkDown, "1"},
	{"ipv6", ignoreLinkDown, "1"},
}

// ignoreLinkDown has the kernel pass over routes by an interface without a carrier.
const ignoreLinkDown = "ignore_routes_with_linkdown"

// routerProbeInterval is how often the kernel asks for a dead router.
const routerProbeInterval = "router_probe_interval"

type giveWaySetting struct{ family, leaf, value string }

func isGivingWay(r pins.SysctlRecord) bool {
	for _, setting := range giveWay {
		if undo.SettingOf(r).Family == setting.family && undo.SettingOf(r).Leaf == setting.leaf {
			return true
		}
	}
	return false
}

// haveDefaultsGiveWay changes these settings of the interface that holds a family's
// default routes. Where another interface has one too, nothing is changed, and where it
// has a route to the first one's networks, no route is passed over: what the host starts would
// leave by that one then.
func (l *Loader) haveDefaultsGiveWay() error {
	wanted, before := l.wantedToGiveWay(), l.madeToGiveWay()
	errs := []error{l.sysctls.Restore(func(r pins.SysctlRecord) bool { return isGivingWay(r) && !wanted[undo.SettingOf(r)] })}
	for _, setting := range giveWay {
		for _, s := range l.inOrder() {
			if !l.givesWay(undo.Setting{Device: s.Index, Family: setting.family, Leaf: setting.leaf}) {
				continue
			}
			change, err := hostsettings.Plan(hostsettings.Key(setting.family, s.Name, setting.leaf), setting.value)
			made, err := l.keepSysctl(change, err)
			errs = append(errs, err)
			if made {
				l.log.Info("routes give way to the fallback route where they lead nowhere", "sysctl", change.Key,
					"before", change.Before, "undo", change.Undo())
			}
		}
	}
	l.tellCovered()
	return errors.Join(append(errs, l.haveSocketsNotice(before, wanted))...)
}

// wantedToGiveWay are the settings that are to be changed, which is not done of interfaces that only observe.
func (l *Loader) wantedToGiveWay() map[undo.Setting]bool {
	wanted := make(map[undo.Setting]bool)
	for _, setting := range giveWay {
		for _, s := range l.enforced() {
			what := undo.Setting{Device: s.Index, Family: setting.family, Leaf: setting.leaf}
			wanted[what] = l.givesWay(what)
		}
	}
	return wanted
}

// madeToGiveWay are the settings that have been changed.
func (l *Loader) madeToGiveWay() map[undo.Setting]bool {
	made := make(map[undo.Setting]bool)
	for _, r := range l.state.Sysctls {
		if isGivingWay(r) {
			made[undo.SettingOf(r)] = true
		}
	}
	return made
}

// haveSocketsNotice has sockets look for a route anew where routes by an interface without a carrier have begun
// to be passed over, or do not go on to be: of the setting itself the kernel tells them nothing.
func (l *Loader) haveSocketsNotice(before, now map[undo.Setting]bool) error {
	var errs []error
	for _, s := range l.inOrder() {
		for _, family := range l.fallback.families {
			what := undo.Setting{Device: s.Index, Family: fallback.Name(family), Leaf: ignoreLinkDown}
			if !s.Up && before[what] != now[what] {
				errs = append(errs, fallback.Renew(l.fallback.device, l.datapath.Gate(), family))
			}
		}
	}
	return errors.Join(errs...)
}

// tellCovered logs by which interfaces routes are not passed over, where that changes.
func (l *Loader) tellCovered() {
	covered := strings.Join(l.coveredDefaults(), ", ")
	if covered == l.fallback.toldCovered {
		return
	}
	if l.fallback.toldCovered = covered; covered == "" {
		return
	}
	l.log.Info("the default route does not give way to the fallback route when the carrier is lost, its gateway is held instead: "+
		"another interface has a route to the same network, by which what the host starts would leave", "interface", covered)
}

// coveredDefaults names the interfaces, with the family, that hold the default routes and are covered.
func (l *Loader) coveredDefaults() (names []string) {
	for _, s := range l.enforced() {
		for _, family := range l.fallback.families {
			what := undo.Setting{Device: s.Index, Family: fallback.Name(family), Leaf: ignoreLinkDown}
			if l.holdsDefaults(what) && l.isCovered(what) {
				names = append(names, fmt.Sprintf("%s (%s)", s.Name, what.Family))
			}
		}
	}
	return names
}

// givesWay tells whether a setting of this interface is to be changed.
func (l *Loader) givesWay(what undo.Setting) bool {
	switch what.Leaf {
	case routerProbeInterval:
		return l.holdsDefaults(what) && l.hasOneRouter(what)
	case ignoreLinkDown:
		return l.holdsDefaults(what) && !l.isCovered(what)
	}
	return l.holdsDefaults(what)
}

// hasFallback tells whether the setting's family has a fallback route, or of an interface that only observes,
// whether it would have one.
func (l *Loader) hasFallback(what undo.Setting) bool {
	families := l.fallback.families
	if !l.served[what.Device].enforces() {
		families = l.fallback.planned
	}
	return slices.ContainsFunc(families, func(family int) bool { return fallback.Name(family) == what.Family })
}

// hasOneRouter tells whether the setting's family has no more than one next hop of default routes.
func (l *Loader) hasOneRouter(what undo.Setting) bool {
	type hop struct {
		device  int
		gateway netip.Addr
	}
	hops := make(map[hop]bool)
	for _, d := range l.fallback.defaults {
		if fallback.Name(d.Family) == what.Family {
			hops[hop{d.Interface, d.Gateway}] = true
		}
	}
	return len(hops) <= 1
}

// isCovered tells whether another interface has a route to a network of the setting's interface: what the
// host starts would leave by it if those of the setting's were passed over.
func (l *Loader) isCovered(what undo.Setting) bool {
	return slices.ContainsFunc(l.fallback.covered, func(c nexthop.Covered) bool {
		return c.Interface == what.Device && fallback.Name(c.Family) == what.Family
	})
}

// holdsDefaults tells whether all default routes of a family that has a fallback route
// lead by the interface of a setting. Where there are none at present, the one that
// held them last still does.
func (l *Loader) holdsDefaults(what undo.Setting) bool {
	if !l.hasFallback(what) {
		return false
	}
	held := slices.ContainsFunc(l.state.Sysctls, func(r pins.SysctlRecord) bool { return undo.SettingOf(r) == what })
	for _, d := range l.fallback.defaults {
		if fallback.Name(d.Family) != what.Family {
			continue
		}
		if d.Interface != what.Device {
			return false
		}
		held = true
	}
	return held
}
