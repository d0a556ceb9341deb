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

// Gateways returns the gateways of all managed interfaces with the state of
// their neighbour entries, ordered by interface and address. They come from the
// routes of the tables that are asked for replies without a mark, those of
// replypath's own excepted. Configured gateways of a
// family take the place of those that the routes of that family on that interface
// name; they are listed even where no network of the interface holds them at
// present.
//
// An address of this host is no gateway, nor is one that it has in another VRF.
// A route by a nexthop object names its gateway only where net.ipv4.nexthop_compat_mode is 1.
func Gateways(nl *netlink.Handle, managed []discover.Interface) ([]Gateway, error) {
	var t Table
	if err := t.ReadIfDue(); err != nil {
		return nil, err
	}
	found, err := Find(nl, managed, &t)
	return found.Gateways, err
}

// Find is Gateways by a table of routes and the rules, with the default routes and with what has to be heeded of them.
// What we make ourselves is looked for each time, in the namespace of the calling thread: its messages may be on their way yet.
func Find(nl *netlink.Handle, managed []discover.Interface, t *Table) (Routers, error) {
	rules, err := dump.Rules(nl)
	if err != nil {
		return Routers{}, err
	}
	found, err := FindOwn()
	if err != nil {
		return Routers{}, err
	}
	hops := slices.DeleteFunc(t.known.hops.List(), func(h hop) bool { return h.isOwn() })
	found.addDefaults(hops)
	found.Gateways, err = resolveAll(nl, managed, hops, t.known.reaches, rules)
	return found, err
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
			r.Fallback = append(r.Fallback, OwnRoute{to, h.table, h.to})
		case byBound:
			r.Bound = append(r.Bound, OwnRoute{to, h.table, h.to})
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
