// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
)

// collectDefaults adds the ways out of a default route.
func collectDefaults(r *dump.Route, add func(defaultHop)) {
	if !r.Dst.IsValid() || r.Dst.Bits() != 0 || r.Protocol == OwnProtocol || r.Protocol == unix.RTPROT_KERNEL && r.Type != unix.RTN_UNICAST {
		return
	}
	hop := defaultHop{family: r.Family, table: r.Table, metric: r.Metric}
	if r.Type != unix.RTN_UNICAST || len(r.Hops) == 0 {
		add(hop)
		return
	}
	for _, h := range r.Hops {
		hop.device = h.Interface
		add(hop)
	}
}

// Astray is an interface that is not managed and that replies are routed to: nothing moves them away
// from there.
type Astray struct {
	Family int // unix.AF_INET or unix.AF_INET6
	Name   string
	Reason string // why it is not managed
}

// String says what that means, for logs, the status and /healthz.
func (a *Astray) String() string {
	family := "ipv4"
	if a.Family == unix.AF_INET6 {
		family = "ipv6"
	}
	return fmt.Sprintf("%s: the default route leads by %s, which is not managed (%s): no reply is moved away from there,"+
		" and no flow that arrives by it is recorded", family, a.Name, a.Reason)
}

// Astray returns the interfaces without replypath that the default routes lead by, in the order of the
// family and the index. It asks for the rules of the namespace that was scanned.
func (r *Result) Astray(nl *netlink.Handle) ([]Astray, error) {
	rules, err := dump.Rules(nl)
	if err != nil {
		return nil, err
	}
	return r.astray(rules), nil
}

func (r *Result) astray(rules []dump.Rule) []Astray {
	var found []Astray
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if !r.isRouted(family) {
			continue
		}
		for _, device := range r.bestDefaults(family, rules) {
			if a, is := r.left[device]; is {
				found = append(found, Astray{family, a.Name, a.Reason})
			}
		}
	}
	return found
}

// isRouted tells whether a managed interface has addresses of a family, and is no port of a VRF, whose
// replies another table routes.
func (r *Result) isRouted(family int) bool {
	return slices.ContainsFunc(r.Interfaces, func(i Interface) bool {
		isOfFamily := func(p netip.Prefix) bool { return p.Addr().Is4() == (family == unix.AF_INET) }
		return i.VRF == 0 && slices.ContainsFunc(i.Addresses, isOfFamily)
	})
}

// bestDefaults returns the devices of the default route that a packet without a source takes: by the
// tables that rules without conditions lead to, in their order, and there of the smallest metric. A
// route that refuses has none.
func (r *Result) bestDefaults(family int, rules []dump.Rule) []int {
	for n := range rules {
		if rules[n].Family != family || !rules[n].IsForAll() {
			continue
		}
		var best []int
		metric := 0
		for _, hop := range r.defaults {
			switch {
			case hop.family != family || hop.table != rules[n].Table:
			case len(best) == 0 || hop.metric < metric:
				metric, best = hop.metric, []int{hop.device}
			case hop.metric == metric:
				best = append(best, hop.device)
			}
		}
		if len(best) > 0 {
			slices.Sort(best)
			return slices.Compact(best)
		}
	}
	return nil
}
