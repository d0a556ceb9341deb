package routing

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
)

// show names a route, and of several hops one, as ip(8) does.
func show(l *snapshot.Links, r *snapshot.Route) string {
	text := target(r)
	if !r.Refuses() {
		text += hop(l, r.Gateway, r.Device, r.Family)
	}
	return text + place(r)
}

// target is what a route leads to.
func target(r *snapshot.Route) string {
	text := "default"
	if !r.IsDefault() {
		text = r.Dst.String()
	}
	if word := r.Kind(); word != "" {
		text = word + " " + text
	}
	return text
}

// hop is how it leads there.
func hop(l *snapshot.Links, gateway netip.Addr, device, family int) string {
	text := ""
	if gateway.IsValid() {
		text = " via "
		if gateway.Is6() && family == unix.AF_INET {
			text += "inet6 "
		}
		text += gateway.String()
	}
	if name := l.DeviceName(device); name != "" {
		text += " dev " + name
	}
	return text
}

// place is what tells it from others that lead there.
func place(r *snapshot.Route) string {
	text := ""
	if r.Table != unix.RT_TABLE_MAIN {
		text += " table " + snapshot.TableName(r.Table)
	}
	if r.Metric != 0 {
		text += fmt.Sprintf(" metric %d", r.Metric)
	}
	return text
}

// listDefaults is the command that shows the default routes of all tables.
func listDefaults(family int) string {
	return "ip " + familyFlag(family) + "route show table all default"
}

// listRoutes is the command that shows a route among those of its table.
func listRoutes(r *snapshot.Route) string {
	return "ip " + familyFlag(r.Family) + "route show table " + snapshot.TableName(r.Table)
}

// familyFlag is what ip(8) needs to be told.
func familyFlag(family int) string {
	if family == unix.AF_INET6 {
		return "-6 "
	}
	return ""
}
