// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// MostNetworks is how many networks are kept of those that are routed by a gateway in one family.
const MostNetworks = 4096

// Reach is what is routed by a gateway in one family, in any table.
type Reach struct {
	// Everything: a default route leads by it, or the configuration names it.
	Everything bool
	// Many: there are more than MostNetworks, of which none is kept.
	Many     bool
	Networks []netip.Prefix // in order
}

// Has tells whether an address is routed by the gateway, as far as that is known.
func (r *Reach) Has(a netip.Addr) bool {
	return r.Everything || slices.ContainsFunc(r.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// road is a gateway as routes of a family name it.
type road struct {
	device  int // index
	gateway netip.Addr
	family  int
}

// reaches are those of all gateways. It is a dump.Collector that bounds what it keeps.
type reaches map[road]*found

type found struct {
	everything, many bool
	networks         map[netip.Prefix]struct{}
}

// Begin forgets what routes of a family told.
func (r reaches) Begin(family int) {
	maps.DeleteFunc(r, func(to road, _ *found) bool { return to.family == family })
}

// Collect adds where a route leads, to each of its gateways. Those of replypath's own lead nowhere.
func (r reaches) Collect(route dump.Route) {
	if route.Type != unix.RTN_UNICAST || route.Protocol == discover.OwnProtocol {
		return
	}
	for _, hop := range route.Hops {
		if !hop.Gateway.IsValid() {
			continue
		}
		to := road{hop.Interface, hop.Gateway, route.Family}
		if r[to] == nil {
			r[to] = &found{networks: make(map[netip.Prefix]struct{})}
		}
		r[to].add(route.Dst.Masked())
	}
}

func (f *found) add(network netip.Prefix) {
	switch {
	case network.Bits() == 0:
		f.everything = true
	case !f.many:
		f.networks[network] = struct{}{}
	}
	if len(f.networks) > MostNetworks {
		f.many, f.networks = true, nil
	}
}

// of returns what is routed by a gateway. Only what is needed is told of one that takes everything.
func (r reaches) of(to road) Reach {
	f := r[to]
	switch {
	case f == nil:
		return Reach{}
	case f.everything:
		return Reach{Everything: true}
	}
	return Reach{Many: f.many, Networks: slices.SortedFunc(maps.Keys(f.networks), netip.Prefix.Compare)}
}
