// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
)

// DefaultRoutes finds a family without a default route, or with one that
// refuses: the kernel then builds no reply to peers beyond the networks of the
// host, and there is nothing that could be sent another way.
func DefaultRoutes(h *snapshot.Host) []finding.Finding {
	return finding.Each(snapshot.Families, func(family *int) finding.Finding {
		if !h.HasFamily(*family) || onlyInVRFs(&h.Links, *family) {
			return finding.None
		}
		return defaultRoute(h, *family)
	})
}

func defaultRoute(h *snapshot.Host, family int) finding.Finding {
	name := snapshot.FamilyName[family]
	best := h.BestDefault(family)
	switch {
	case best == nil && h.Config.FallbackRoute && h.HasOwnDevice():
		severity, text := finding.Warning, name+" has no default route but that of "+discover.OwnDevice+": replies are built, what the host starts fails"
		if by := h.LedBy[family]; by != "" {
			severity, text = finding.Error, text+", as the one by "+by+" is gone"
		}
		return finding.Seen(severity, "", text, listDefaults(family))
	case best == nil:
		severity := finding.Error
		if isPrivate(&h.Links, family) {
			severity = finding.Warning
		}
		return finding.Advised(severity, "", noDefault(&h.Routing, name, family), withoutDefault(&h.State, family))
	case best.Refuses():
		return finding.Seen(finding.Error, "", fmt.Sprintf("%s: the default route is %s: no reply to peers beyond it is built",
			name, Show(&h.Links, best)),
			listRoutes(best)).Of(best.Owner())
	case leadsDown(h, best):
		return finding.Seen(finding.Error, "", fmt.Sprintf("%s: the default route by %s is down: what the host starts fails",
			name, h.DeviceName(best.Device)), listRoutes(best)).Of(best.Owner())
	}
	return finding.Fine("", name+": "+Show(&h.Links, best))
}

// leadsDown tells whether a default route, and every other that the kernel could take in its place, leads by a managed interface that
// is down.
func leadsDown(h *snapshot.Host, best *snapshot.Route) bool {
	return !slices.ContainsFunc(h.Routes, func(r snapshot.Route) bool {
		i := h.Managed(r.Device)
		return r.Family == best.Family && r.IsDefault() && h.IsForAll(r.Family, r.Table) && (i == nil || i.Up)
	})
}

// withoutDefault is what there is to do about a missing default route: replypath has
// replies be built without one. Where the host's own connections go is for those to
// say who know its networks.
func withoutDefault(s *snapshot.State, family int) finding.Remedy {
	switch {
	case !s.Config.FallbackRoute:
		return finding.Remedy{Fix: remedy.Configure(s, "set fallback_route: true")}
	case !s.Attached:
		return finding.Remedy{Fix: finding.Explained(remedy.Start(s), "replies are built then; what this host starts needs a default route, too")}
	}
	return finding.Remedy{Inspect: listDefaults(family)}
}

// noDefault says that there is none, or none that everybody uses.
func noDefault(t *snapshot.Routing, name string, family int) string {
	text := name + " has no default route: no reply to peers beyond the networks of this host is built"
	for _, r := range t.Routes {
		if r.Family == family && r.IsDefault() && r.IsUnicast() {
			return fmt.Sprintf("%s, except by the rules that lead to table %s", text, dump.TableName(r.Table))
		}
	}
	return text
}

// onlyInVRFs tells whether every managed interface with addresses of a family
// belongs to a VRF, whose table is another.
func onlyInVRFs(l *snapshot.Links, family int) bool {
	return !slices.ContainsFunc(l.Interfaces, func(i discover.Interface) bool {
		return snapshot.HasFamily(&i, family) && i.VRF == 0
	})
}

// isPrivate tells whether the managed interfaces have no IPv6 addresses but unique
// local ones (RFC 4193), which need not lead anywhere.
func isPrivate(l *snapshot.Links, family int) bool {
	return family == unix.AF_INET6 && !slices.ContainsFunc(l.Interfaces, func(i discover.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().IsPrivate() })
	})
}

// OwnGateways finds routes, and gateways of the configuration, whose gateway is
// an address of this host.
func OwnGateways(h *snapshot.Host) []finding.Finding {
	found := finding.Each(h.Routes, func(r *snapshot.Route) finding.Finding {
		isOthers := h.Managed(r.Device) == nil && !h.IsForAll(r.Family, r.Table) // a tunnel's, or that of pods
		if !r.IsUnicast() || !r.Gateway.IsValid() || !h.IsOwn(r.Gateway) || isOthers {
			return finding.None
		}
		return finding.Seen(finding.Error, h.DeviceName(r.Device), Show(&h.Links, r)+" has a gateway that is this host itself", listRoutes(r)).
			Of(r.Owner())
	})
	for _, i := range h.Interfaces {
		for _, g := range i.Settings.Gateways {
			if h.IsOwn(g) {
				found = append(found, finding.Problem(finding.Error, i.Name,
					fmt.Sprintf("gateway %s of the configuration is this host itself", g), remedy.UnconfigureGateway(h, i, g)))
			}
		}
	}
	return found
}

// Show names a route, and of several hops one, as ip(8) does.
func Show(l *snapshot.Links, r *snapshot.Route) string {
	var words []string
	if word := r.Kind(); word != "" {
		words = append(words, word)
	}
	if r.IsDefault() {
		words = append(words, "default")
	} else {
		words = append(words, r.Dst.String())
	}
	if !r.Refuses() {
		words = append(words, hop(l, r)...)
	}
	if r.Table != unix.RT_TABLE_MAIN {
		words = append(words, "table", dump.TableName(r.Table))
	}
	if r.Metric != 0 {
		words = append(words, "metric", fmt.Sprint(r.Metric))
	}
	return strings.Join(words, " ")
}

// hop is how a route leads somewhere.
func hop(l *snapshot.Links, r *snapshot.Route) (words []string) {
	if r.Gateway.IsValid() {
		words = append(words, "via", r.Gateway.String())
		if r.Gateway.Is6() && r.Family == unix.AF_INET {
			words = slices.Insert(words, 1, "inet6")
		}
	}
	if name := l.DeviceName(r.Device); name != "" {
		words = append(words, "dev", name)
	}
	return words
}

// listDefaults is the command that shows the default routes of all tables.
func listDefaults(family int) string { return ip[family] + "route show table all default" }

// listRoutes is the command that shows a route among those of its table.
func listRoutes(r *snapshot.Route) string {
	return ip[r.Family] + "route show table " + dump.TableName(r.Table)
}

// ip is the beginning of a command of ip(8) about a family.
var ip = map[int]string{unix.AF_INET: "ip ", unix.AF_INET6: "ip -6 "}
