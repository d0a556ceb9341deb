// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"math"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Find is Gateways with the default routes, and with what the fallback routes have to heed.
func Find(nl *netlink.Handle, managed []discover.Interface) (Routers, error) {
	hops, late, networks, reaches := dump.NewValues(collectHops), dump.NewValues(collectLate), make(networks), make(reaches)
	if err := dump.ReadRoutes(nl, hops, late, networks, reaches); err != nil {
		return Routers{}, err
	}
	found := Routers{Covered: networks.covered(managed)}
	found.addDefaults(hops.List())
	var err error
	if found.Shadowed, err = shadowed(nl, late.List()); err != nil {
		return Routers{}, err
	}
	found.Gateways, err = resolveAll(nl, managed, hops.List(), reaches)
	return found, err
}

// FindOwn finds replypath's own routes alone, those of last resort and those for bound sockets.
func FindOwn(nl *netlink.Handle) (Routers, error) {
	hops, err := dump.Routes(nl, func(r dump.Route, add func(hop)) {
		if r.Protocol == discover.OwnProtocol {
			collectHops(r, add)
		}
	})
	var found Routers
	found.addDefaults(hops)
	return found, err
}

// addDefaults sorts the next hops of default routes by whose they are.
func (r *Routers) addDefaults(hops []hop) {
	first := firstMetric(hops)
	for _, h := range hops {
		switch to := (Default{Interface: h.device, Gateway: h.gateway, Family: h.family}); h.kind {
		case byDefault:
			to.Behind = h.family == unix.AF_INET && h.metric > first
			r.Defaults = append(r.Defaults, to)
		case byFallback:
			r.Fallback = append(r.Fallback, to)
		case byBound:
			r.Bound = append(r.Bound, to)
		}
	}
}

// firstMetric is the smallest of IPv4's default routes. With those for a TOS among them all are first: for such packets the
// kernel goes over from one metric to another (fib_select_default()).
func firstMetric(hops []hop) int {
	first := math.MaxInt
	for _, h := range hops {
		switch {
		case h.kind != byDefault || h.family != unix.AF_INET:
		case h.tos != 0:
			return math.MaxInt
		default:
			first = min(first, h.metric)
		}
	}
	return first
}
