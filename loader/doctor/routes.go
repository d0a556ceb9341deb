package doctor

import (
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
		if h.hasFamily(family) && !onlyInVRFs(&h.Links, family) {
			found = append(found, defaultRoute(h, family))
		}
	}
	return found
}

func defaultRoute(h *Host, family int) Finding {
	name := familyName(family)
	best := h.bestDefault(family)
	switch {
	case best == nil && isPrivate(&h.Links, family):
		return advised(Warning, "", noDefault(&h.Routing, name, family), withoutDefault(&h.State, family))
	case best == nil:
		return advised(Error, "", noDefault(&h.Routing, name, family), withoutDefault(&h.State, family))
	case best.refuses():
		return seen(Error, "", fmt.Sprintf("%s: the default route is %s: no reply to peers beyond it is built", name, show(&h.Links, best)),
			listRoutes(best)).of(ownerOfRoute(best))
	case h.deviceName(best.Device) == discover.OwnDevice:
		return seen(Warning, "", name+": no default route but that of "+discover.OwnDevice+": replies are built, what the host starts fails",
			listDefaults(family))
	}
	return fine("", name+": "+show(&h.Links, best))
}

// withoutDefault is what there is to do about a missing default route: replypath has
// replies be built without one. Where the host's own connections go is for those to
// say who know its networks.
func withoutDefault(s *State, family int) remedy {
	switch {
	case !s.Config.FallbackRoute:
		return remedy{fix: configure(s, "set fallback_route: true")}
	case !s.Attached:
		return remedy{fix: explained(start(s), "replies are built then; what this host starts needs a default route, too")}
	}
	return remedy{inspect: listDefaults(family)}
}

// routedInterfaces finds an interface that replies are routed to, and that is not
// managed: nothing moves them away from there, and of what comes in by it nothing
// is recorded.
func routedInterfaces(h *Host) []Finding {
	var found []Finding
	for n := range h.Astray {
		a := &h.Astray[n]
		found = append(found, advised(Warning, a.Name, a.String(), manage(h, a.Name)))
	}
	return found
}

// noDefault says that there is none, or none that everybody uses.
func noDefault(t *Routing, name string, family int) string {
	text := name + ": no default route: no reply to peers beyond the networks of this host is built"
	for _, r := range t.Routes {
		if r.Family == family && r.isDefault() && r.isUnicast() {
			return fmt.Sprintf("%s, except by the rules that lead to table %s", text, tableName(r.Table))
		}
	}
	return text
}

// onlyInVRFs tells whether every managed interface with addresses of a family
// belongs to a VRF, whose table is another.
func onlyInVRFs(l *Links, family int) bool {
	return !slices.ContainsFunc(l.Interfaces, func(i discover.Interface) bool {
		d := l.device(i.Index)
		return hasFamily(i, family) && (d == nil || !d.VRF)
	})
}

// isPrivate tells whether the managed interfaces have no IPv6 addresses but unique
// local ones (RFC 4193), which need not lead anywhere.
func isPrivate(l *Links, family int) bool {
	return family == unix.AF_INET6 && !slices.ContainsFunc(l.Interfaces, func(i discover.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().IsPrivate() })
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
		if r.refuses() && !r.isDefault() && !isDaemons(r.Protocol) && h.hasFamily(r.Family) {
			found = append(found, seen(Warning, "", show(&h.Links, r)+": no reply to peers there is built", listRoutes(r)).of(ownerOfRoute(r)))
		}
	}
	for n := range h.Rules {
		if r := &h.Rules[n]; r.Refuses != "" && h.hasFamily(r.Family) {
			found = append(found, refusingRule(&h.Routing, r))
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
func refusingRule(t *Routing, r *Rule) Finding {
	owner := ownerOfRule(t, r)
	f := seen(Warning, "", r.String()+": no reply that it matches is built", listRules(r)).of(owner)
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
		if i == nil || i.NoARP || !r.isUnicast() || r.Gateway.IsValid() || !r.leadsFar() {
			continue
		}
		found = append(found, seen(Warning, i.Name,
			fmt.Sprintf("%s: without a gateway every peer is asked for by %s and gets a neighbour entry", show(&h.Links, r), resolution(r.Family)),
			listRoutes(r)).of(ownerOfRoute(r)))
	}
	return found
}

// ownGateways finds routes, and gateways of the configuration, whose gateway is
// an address of this host.
func ownGateways(h *Host) []Finding {
	var found []Finding
	for n := range h.Routes {
		r := &h.Routes[n]
		if r.isUnicast() && r.Gateway.IsValid() && h.isOwn(r.Gateway) {
			f := seen(Error, h.deviceName(r.Device), show(&h.Links, r)+": the gateway is this host itself", listRoutes(r)).of(ownerOfRoute(r))
			if owner := ownerOfTable(r.Table); owner != "" { // its device leads elsewhere
				f.Severity, f.Found = OK, f.Found+", as "+owner+" has it"
			}
			found = append(found, f)
		}
	}
	for _, i := range h.Interfaces {
		for _, g := range i.Settings.Gateways {
			if h.isOwn(g) {
				found = append(found, problem(Error, i.Name,
					fmt.Sprintf("gateway %s of the configuration is this host itself", g), unconfigureGateway(h, i, g)))
			}
		}
	}
	return found
}
