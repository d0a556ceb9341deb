package loader

import (
	"errors"
	"slices"

	"replypath/loader/fallback"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
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
	// Seconds. A dead router that has been passed over is asked as often whether it
	// is back; without the fallback route every packet would ask.
	{"ipv6", "router_probe_interval", "1"},
	{"ipv4", ignoreLinkDown, "1"},
	{"ipv6", ignoreLinkDown, "1"},
}

// ignoreLinkDown has the kernel pass over routes by an interface without a carrier.
const ignoreLinkDown = "ignore_routes_with_linkdown"

type giveWaySetting struct{ family, leaf, value string }

func isGivingWay(r pins.SysctlRecord) bool {
	for _, setting := range giveWay {
		if settingOf(r).family == setting.family && settingOf(r).leaf == setting.leaf {
			return true
		}
	}
	return false
}

// haveDefaultsGiveWay changes these settings of the interface that holds a family's
// default routes. Where another interface has one too, nothing is changed: what the
// host starts would leave by that one then.
func (l *Loader) haveDefaultsGiveWay() error {
	var errs []error
	wanted := make(map[sysctl]bool)
	for _, setting := range giveWay {
		for _, s := range l.inOrder() {
			what := sysctl{s.Index, setting.family, setting.leaf}
			if !l.holdsDefaults(what) {
				continue
			}
			wanted[what] = true
			change, err := hostsettings.Plan(hostsettings.Key(setting.family, s.Name, setting.leaf), setting.value)
			made, err := l.keepSysctl(change, err)
			errs = append(errs, err)
			if made {
				l.log.Info("the default route gives way to the fallback route where it leads nowhere", "sysctl", change.Key,
					"before", change.Before, "undo", change.Undo())
			}
		}
	}
	return errors.Join(append(errs, l.restoreSysctls(func(r pins.SysctlRecord) bool {
		return isGivingWay(r) && !wanted[settingOf(r)]
	}))...)
}

// holdsDefaults tells whether all default routes of a family that has a fallback route
// lead by the interface of a setting. Where there are none at present, the one that
// held them last still does.
func (l *Loader) holdsDefaults(what sysctl) bool {
	isFamily := func(family int) bool { return fallback.Name(family) == what.family }
	if !slices.ContainsFunc(l.fallback.families, isFamily) {
		return false
	}
	held := slices.ContainsFunc(l.state.Sysctls, func(r pins.SysctlRecord) bool { return settingOf(r) == what })
	for _, d := range l.fallback.defaults {
		if !isFamily(d.Family) {
			continue
		}
		if d.Interface != what.device {
			return false
		}
		held = true
	}
	return held
}
