// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"math"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Find is Gateways by a table of routes, with the default routes and with what the fallback routes have to heed. What we make
// ourselves is looked for each time, in the namespace of the calling thread: its messages may be on their way yet.
func Find(nl *netlink.Handle, managed []discover.Interface, t *Table) (Routers, error) {
	found, err := t.own()
	if err != nil {
		return Routers{}, err
	}
	hops := slices.DeleteFunc(t.known.hops.List(), func(h hop) bool { return h.isOwn() })
	found.addDefaults(hops)
	found.Covered = t.known.networks.covered(managed)
	if found.Shadowed, err = shadowed(nl, t.known.late.List()); err != nil {
		return Routers{}, err
	}
	found.Gateways, err = resolveAll(nl, managed, hops, t.known.reaches)
	t.tellAnnounced(found.Gateways)
	return found, err
}

// own returns replypath's own routes as they are now.
func (t *Table) own() (own Routers, err error) {
	if !t.fresh {
		return FindOwn()
	}
	t.fresh = false
	own.addDefaults(slices.DeleteFunc(t.known.hops.List(), func(h hop) bool { return !h.isOwn() }))
	return own, nil
}

// FindOwn finds replypath's own routes alone, those of last resort and those for bound sockets, in the network namespace of the
// calling thread.
func FindOwn() (Routers, error) {
	hops := dump.NewValues(collectHops)
	err := dump.ReadRoutesOf(discover.OwnProtocol, hops)
	var found Routers
	found.addDefaults(hops.List())
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
