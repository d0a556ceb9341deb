package doctor

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// show names a route, and of several hops one, as ip(8) does.
func (h *Host) show(r *Route) string {
	text := target(r)
	if !r.refuses() {
		text += h.way(r.Gateway, r.Device, r.Family)
	}
	return text + place(r)
}

// target is what a route leads to.
func target(r *Route) string {
	text := "default"
	if !isDefault(r.Dst) {
		text = r.Dst.String()
	}
	if word := refusals[r.Type]; word != "" {
		text = word + " " + text
	}
	return text
}

// way is how it leads there.
func (h *Host) way(gateway netip.Addr, device, family int) string {
	text := ""
	if gateway.IsValid() {
		text = " via "
		if gateway.Is6() && family == unix.AF_INET {
			text += "inet6 "
		}
		text += gateway.String()
	}
	if name := h.deviceName(device); name != "" {
		text += " dev " + name
	}
	return text
}

// place is what tells it from others that lead there.
func place(r *Route) string {
	text := ""
	if r.Table != unix.RT_TABLE_MAIN {
		text += " table " + tableName(r.Table)
	}
	if r.Metric != 0 {
		text += fmt.Sprintf(" metric %d", r.Metric)
	}
	return text
}
