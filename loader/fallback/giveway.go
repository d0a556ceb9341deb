// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// givingWay are the settings that have the kernel pass over a default route that leads
// nowhere, in favour of the fallback route, and come back to it. They are changed in this
// order: what a route needs that gives way is there before it does.
var givingWay = []giveWaySetting{
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

// IsGivingWay tells whether a sysctl was changed so that a default route gives way.
func IsGivingWay(r pins.SysctlRecord) bool {
	what := undo.SettingOf(r)
	return slices.ContainsFunc(givingWay, func(s giveWaySetting) bool { return what.Family == s.family && what.Leaf == s.leaf })
}

// giveWay has default routes give way to the fallback routes.
type giveWay struct {
	host *Host
	seen *view
}

// arrange changes these settings of the interface that holds a family's
// default routes. Where another interface has one too, nothing is changed, and where it
// has a route to the first one's networks, no route is passed over: what the host starts would
// leave by that one then.
func (g *giveWay) arrange(device *Device) error {
	wanted, before := g.wanted(), g.made()
	errs := []error{g.host.Sysctls.Restore(func(r pins.SysctlRecord) bool { return IsGivingWay(r) && !wanted[undo.SettingOf(r)] })}
	for _, setting := range givingWay {
		for _, s := range g.host.Interfaces() {
			if !g.isFor(undo.Setting{Device: s.Index, Family: setting.family, Leaf: setting.leaf}) {
				continue
			}
			change, err := hostsettings.Plan(hostsettings.Key(setting.family, s.Name, setting.leaf), setting.value)
			made, err := g.host.ChangeSysctl(change, err)
			errs = append(errs, err)
			if made {
				g.host.Log.Info("routes give way to the fallback route where they lead nowhere", "sysctl", change.Key,
					"before", change.Before, "undo", change.Undo())
			}
		}
	}
	return errors.Join(append(errs, g.haveSocketsNotice(device, before, wanted))...)
}

// wanted are the settings that are to be changed, which is not done of interfaces that only observe.
func (g *giveWay) wanted() map[undo.Setting]bool {
	wanted := make(map[undo.Setting]bool)
	for _, setting := range givingWay {
		for _, s := range g.host.enforcing(true) {
			what := undo.Setting{Device: s.Index, Family: setting.family, Leaf: setting.leaf}
			wanted[what] = g.isFor(what)
		}
	}
	return wanted
}

// made are the settings that have been changed.
func (g *giveWay) made() map[undo.Setting]bool {
	made := make(map[undo.Setting]bool)
	for _, r := range *g.host.Sysctls.Records {
		if IsGivingWay(r) {
			made[undo.SettingOf(r)] = true
		}
	}
	return made
}

// haveSocketsNotice has sockets look for a route anew where routes by an interface without a carrier have begun
// to be passed over, or do not go on to be: of the setting itself the kernel tells them nothing.
func (g *giveWay) haveSocketsNotice(device *Device, before, now map[undo.Setting]bool) error {
	var errs []error
	for _, s := range g.host.Interfaces() {
		for _, family := range g.seen.families {
			what := undo.Setting{Device: s.Index, Family: Name(family), Leaf: ignoreLinkDown}
			if !s.Up && before[what] != now[what] {
				errs = append(errs, haveSocketsForget(g.host.Netlink(), device, family))
			}
		}
	}
	return errors.Join(errs...)
}

// covered names the interfaces, with the family, that hold the default routes and are covered.
func (g *giveWay) covered() (names []string) {
	for _, s := range g.host.enforcing(true) {
		for _, family := range g.seen.families {
			what := undo.Setting{Device: s.Index, Family: Name(family), Leaf: ignoreLinkDown}
			if g.holdsDefaults(what) && g.isCovered(what) {
				names = append(names, fmt.Sprintf("%s (%s)", s.Name, what.Family))
			}
		}
	}
	return names
}

// isFor tells whether a setting of this interface is to be changed.
func (g *giveWay) isFor(what undo.Setting) bool {
	switch what.Leaf {
	case routerProbeInterval:
		return g.holdsDefaults(what) && g.hasOneRouter(what)
	case ignoreLinkDown:
		return g.holdsDefaults(what) && !g.isCovered(what)
	}
	return g.holdsDefaults(what)
}

// hasFallback tells whether the setting's family has a fallback route, or of an interface that only observes,
// whether it would have one.
func (g *giveWay) hasFallback(what undo.Setting) bool {
	families := g.seen.families
	if !g.host.Enforces(what.Device) {
		families = g.seen.planned
	}
	return slices.ContainsFunc(families, func(family int) bool { return Name(family) == what.Family })
}

// hasOneRouter tells whether the setting's family has no more than one next hop of default routes.
func (g *giveWay) hasOneRouter(what undo.Setting) bool {
	type hop struct {
		device  int
		gateway netip.Addr
	}
	hops := make(map[hop]bool)
	for _, d := range g.seen.Defaults {
		if Name(d.Family) == what.Family {
			hops[hop{d.Interface, d.Gateway}] = true
		}
	}
	return len(hops) <= 1
}

// isCovered tells whether another interface has a route to a network of the setting's interface: what the
// host starts would leave by it if those of the setting's were passed over.
func (g *giveWay) isCovered(what undo.Setting) bool {
	return slices.ContainsFunc(g.seen.Covered, func(c nexthop.Covered) bool {
		return c.Interface == what.Device && Name(c.Family) == what.Family
	})
}

// holdsDefaults tells whether all default routes of a family that has a fallback route
// lead by the interface of a setting. Where there are none at present, the one that
// held them last still does.
func (g *giveWay) holdsDefaults(what undo.Setting) bool {
	if !g.hasFallback(what) {
		return false
	}
	held := slices.ContainsFunc(*g.host.Sysctls.Records, func(r pins.SysctlRecord) bool { return undo.SettingOf(r) == what })
	for _, d := range g.seen.Defaults {
		if Name(d.Family) != what.Family {
			continue
		}
		if d.Interface != what.Device {
			return false
		}
		held = true
	}
	return held
}
