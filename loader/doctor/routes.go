package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
)

// defaultRoutes finds a family without a default route, or with one that
// refuses: the kernel then builds no reply to peers beyond the networks of the
// host, and there is nothing that could be sent another way.
func defaultRoutes(h *Host) []Finding {
	var found []Finding
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if h.hasFamily(family == unix.AF_INET) && !h.onlyInVRFs(family == unix.AF_INET) {
			found = append(found, defaultRoute(h, family))
		}
	}
	return found
}

func defaultRoute(h *Host, family int) Finding {
	name := familyName(family)
	best := h.bestDefault(family)
	switch {
	case best == nil && h.isPrivate(family):
		return advised(Warning, "", noDefault(h, name, family), h.withoutDefault(family))
	case best == nil:
		return advised(Error, "", noDefault(h, name, family), h.withoutDefault(family))
	case best.refuses():
		return seen(Error, "", fmt.Sprintf("%s: the default route is %s: no reply to peers beyond it is built", name, h.show(best)),
			best.list()).of(ownerOfRoute(best))
	case h.deviceName(best.Device) == discover.OwnDevice:
		return seen(Warning, "", name+": no default route but that of "+discover.OwnDevice+": replies are built, what the host starts fails",
			listDefaults(family))
	}
	return fine("", name+": "+h.show(best))
}

// withoutDefault is what there is to do about a missing default route: replypath has
// replies be built without one. Where the host's own connections go is for those to
// say who know its networks.
func (h *Host) withoutDefault(family int) remedy {
	switch {
	case !h.Config.FallbackRoute:
		return remedy{fix: h.configure("set fallback_route: true")}
	case !h.Attached:
		return remedy{fix: explained(h.start(), "replies are built then; what this host starts needs a default route, too")}
	}
	return remedy{inspect: listDefaults(family)}
}

// listDefaults is the command that shows the default routes of all tables.
func listDefaults(family int) string {
	return "ip " + familyFlag(family) + "route show table all default"
}

// list is the command that shows a route among those of its table.
func (r *Route) list() string {
	return "ip " + familyFlag(r.Family) + "route show table " + tableName(r.Table)
}

// routedInterfaces finds an interface that replies are routed to, and that is not
// managed: nothing moves them away from there, and of what comes in by it nothing
// is recorded.
func routedInterfaces(h *Host) []Finding {
	var found []Finding
	for n := range h.Astray {
		a := &h.Astray[n]
		found = append(found, advised(Warning, a.Name, a.String(), h.manage(a.Name)))
	}
	return found
}

// reasonOf says why an interface is not managed.
func (h *Host) reasonOf(name string) string {
	for _, u := range h.Unmanaged {
		if u.Name == name {
			return u.Reason
		}
	}
	return justCome
}

// justCome is the reason where discovery has not seen an interface yet.
const justCome = "it has just come"

// noDefault says that there is none, or none that everybody uses.
func noDefault(h *Host, name string, family int) string {
	text := name + ": no default route: no reply to peers beyond the networks of this host is built"
	for _, r := range h.Routes {
		if r.Family == family && isDefault(r.Dst) && r.Type == unix.RTN_UNICAST {
			return fmt.Sprintf("%s, except by the rules that lead to table %s", text, tableName(r.Table))
		}
	}
	return text
}

// bestDefault returns the default route that a packet without a source takes: by
// the tables that rules without conditions lead to, in their order, and there the
// one with the smallest metric.
func (h *Host) bestDefault(family int) *Route {
	for _, table := range h.commonTables(family) {
		var best *Route
		for n := range h.Routes {
			r := &h.Routes[n]
			if r.Family == family && r.Table == table && isDefault(r.Dst) && (best == nil || r.Metric < best.Metric) {
				best = r
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}

func (h *Host) commonTables(family int) []int {
	var tables []int
	for _, r := range h.Rules {
		if r.Family == family && r.isUnconditional() {
			tables = append(tables, r.Table)
		}
	}
	return tables
}

// onlyInVRFs tells whether every managed interface with addresses of a family
// belongs to a VRF, whose table is another.
func (h *Host) onlyInVRFs(v4 bool) bool {
	return !slices.ContainsFunc(h.Interfaces, func(i discover.Interface) bool {
		d := h.device(i.Index)
		return hasFamily(i, v4) && (d == nil || !d.VRF)
	})
}

// mostRoutes bounds how many findings of one kind are listed one by one.
const mostRoutes = 8

// refusingRoutes finds routes and rules that refuse packets to some peers. They
// are somebody's intention, which replypath respects.
func refusingRoutes(h *Host) []Finding {
	var found []Finding
	for n := range h.Routes {
		r := &h.Routes[n]
		if r.refuses() && !isDefault(r.Dst) && !isDaemons(r.Protocol) && h.hasFamily(r.Family == unix.AF_INET) {
			found = append(found, seen(Warning, "", h.show(r)+": no reply to peers there is built", r.list()).of(ownerOfRoute(r)))
		}
	}
	for n := range h.Rules {
		if r := &h.Rules[n]; r.Refuses != "" && h.hasFamily(r.Family == unix.AF_INET) {
			found = append(found, h.refusingRule(r))
		}
	}
	if more := len(found) - mostRoutes; more > 0 {
		found = append(found[:mostRoutes], seen(Warning, "", fmt.Sprintf("%d more routes or rules refuse", more),
			"ip route show table all; ip -6 route show table all; ip rule show; ip -6 rule show"))
	}
	return found
}

// refusingRule tells of a rule that refuses. What somebody marks is theirs: a rule by
// the mark of a known program is in order, as it refuses nothing but its packets.
func (h *Host) refusingRule(r *Rule) Finding {
	owner := h.ownerOfRule(r)
	f := seen(Warning, "", r.String()+": no reply that it matches is built", r.list()).of(owner)
	if owner != "" && r.hasMark() {
		f.Severity, f.Found = OK, fmt.Sprintf("%s: it refuses packets with the mark of %s only", r, owner)
	}
	return f
}

// isDaemons tells the routes of routing daemons, which refuse a network as a
// whole while more specific routes lead into it (linux/rtnetlink.h). 80 is
// Calico's.
func isDaemons(protocol int) bool {
	return protocol == unix.RTPROT_KERNEL || protocol > unix.RTPROT_STATIC && protocol != unix.RTPROT_DHCP
}

// routesWithoutGateway finds routes to far more than a network holds that name no
// gateway: every peer becomes a neighbour, is asked for by ARP, and needs an entry.
func routesWithoutGateway(h *Host) []Finding {
	var found []Finding
	for n := range h.Routes {
		r := &h.Routes[n]
		i := h.managed(r.Device)
		if i == nil || i.NoARP || !r.isUnicast() || r.Gateway.IsValid() || !leadsFar(r.Dst) {
			continue
		}
		found = append(found, seen(Warning, i.Name,
			fmt.Sprintf("%s: without a gateway every peer is asked for by %s and gets a neighbour entry", h.show(r), resolution(r.Family)),
			r.list()).of(ownerOfRoute(r)))
	}
	return found
}

func resolution(family int) string {
	if family == unix.AF_INET6 {
		return "neighbour discovery"
	}
	return "arp"
}

// leadsFar tells a prefix that no single link holds: a default route or its
// halves.
func leadsFar(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < 8
	}
	return p.Bits() < 16 && !p.Addr().IsMulticast()
}

// ownGateways finds routes, and gateways of the configuration, whose gateway is
// an address of this host.
func ownGateways(h *Host) []Finding {
	var found []Finding
	for n := range h.Routes {
		r := &h.Routes[n]
		if r.isUnicast() && r.Gateway.IsValid() && h.isOwn(r.Gateway) {
			f := seen(Error, h.deviceName(r.Device), h.show(r)+": the gateway is this host itself", r.list()).of(ownerOfRoute(r))
			if owner := tableOwners[r.Table]; owner != "" { // its device leads elsewhere
				f.Severity, f.Found = OK, f.Found+", as "+owner+" has it"
			}
			found = append(found, f)
		}
	}
	for _, i := range h.Interfaces {
		for _, g := range i.Settings.Gateways {
			if h.isOwn(g) {
				found = append(found, problem(Error, i.Name,
					fmt.Sprintf("gateway %s of the configuration is this host itself", g), h.unconfigureGateway(i, g)))
			}
		}
	}
	return found
}

func (r *Route) isUnicast() bool { return r.Type == unix.RTN_UNICAST }

// refusals are the types of routes that refuse, by the words of ip(8).
var refusals = map[int]string{
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

// refuses leaves out throw, which goes on with the next rule.
func (r *Route) refuses() bool { return refusals[r.Type] != "" && r.Type != unix.RTN_THROW }

func isDefault(p netip.Prefix) bool { return p.IsValid() && p.Bits() == 0 }

// familyFlag is what ip(8) needs to be told.
func familyFlag(family int) string {
	if family == unix.AF_INET6 {
		return "-6 "
	}
	return ""
}

func tableName(table int) string {
	names := map[int]string{unix.RT_TABLE_MAIN: "main", unix.RT_TABLE_DEFAULT: "default", unix.RT_TABLE_LOCAL: "local"}
	return cmp.Or(names[table], fmt.Sprint(table))
}
