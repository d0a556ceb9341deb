// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// MostNetworks is how many networks are kept of those that are routed by a gateway in one family.
const MostNetworks = 4096

// mostInAll is how many are kept of all gateways: the programs are told of no more (package ways). Beyond that nothing is kept of
// the gateways with the most.
const mostInAll = 16384

// Reach is what is routed by a gateway in one family, from all addresses of its interface.
type Reach struct {
	// Everything: a default route leads by it, or the configuration names it.
	Everything bool
	// Many: there are more than MostNetworks, or too many beside those of all others, and none is kept.
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
	table   int
}

// reaches are those of all gateways. It is a dump.Collector that bounds what it keeps.
type reaches struct {
	by   map[road]*found
	kept int // networks of all of them
}

func newReaches() *reaches { return &reaches{by: make(map[road]*found)} }

type found struct {
	everything, many bool
	networks         map[netip.Prefix]struct{} // nil where everything is routed, or many
}

// Begin forgets what routes of a family told.
func (r *reaches) Begin(family int) {
	maps.DeleteFunc(r.by, func(to road, of *found) bool {
		if to.family == family {
			r.kept -= len(of.networks)
		}
		return to.family == family
	})
}

// take adds what others know of another family.
func (r *reaches) take(from *reaches) {
	maps.Copy(r.by, from.by)
	r.kept += from.kept
	r.bound()
}

// Collect adds where a route leads, to each of its gateways. Those of replypath's own lead nowhere.
func (r *reaches) Collect(route *dump.Route) { r.collect(route) }

// collect returns what is kept of the last of the gateways, nil where there is none, and whether one serves more than before.
func (r *reaches) collect(route *dump.Route) (last *found, news bool) {
	if route.Type != unix.RTN_UNICAST || route.Protocol == discover.OwnProtocol {
		return nil, false
	}
	for _, hop := range route.Hops {
		if !hop.Gateway.IsValid() {
			continue
		}
		to := road{hop.Interface, hop.Gateway, route.Family, route.Table}
		if r.by[to] == nil {
			r.by[to] = &found{networks: make(map[netip.Prefix]struct{})}
		}
		last = r.by[to]
		news = r.add(last, route.Dst.Masked()) || news
	}
	return last, news
}

// add adds a network to one of them, and tells whether that changes it.
func (r *reaches) add(to *found, network netip.Prefix) (news bool) {
	before := len(to.networks)
	to.add(network)
	change := len(to.networks) - before
	r.kept += change
	r.bound()
	return change != 0
}

// bound keeps nothing of those with the most, until what is left is not too much. Of equals it is always the same one.
func (r *reaches) bound() {
	for r.kept > mostInAll {
		most := slices.MaxFunc(slices.Collect(maps.Keys(r.by)), func(a, b road) int {
			return cmp.Or(cmp.Compare(len(r.by[a].networks), len(r.by[b].networks)), a.gateway.Compare(b.gateway),
				cmp.Compare(a.device, b.device), cmp.Compare(a.table, b.table), cmp.Compare(a.family, b.family))
		})
		r.kept -= len(r.by[most].networks)
		*r.by[most] = found{many: true}
	}
}

func (f *found) add(network netip.Prefix) {
	switch {
	case f.everything:
	case network.Bits() == 0:
		*f = found{everything: true}
	case !f.many:
		f.networks[network] = struct{}{}
	}
	if len(f.networks) > MostNetworks {
		*f = found{many: true}
	}
}

// keep tells whether a network is kept of a gateway.
func (r *reaches) keep(family int, network netip.Prefix) bool {
	for to, f := range r.by {
		if _, isKept := f.networks[network]; isKept && to.family == family {
			return true
		}
	}
	return false
}

// equal tells whether two know the same.
func (r *reaches) equal(other *reaches) bool {
	return maps.EqualFunc(r.by, other.by, func(a, b *found) bool {
		return a.everything == b.everything && a.many == b.many && maps.Equal(a.networks, b.networks)
	})
}

// of returns what is routed by a gateway in a family, from whichever own address it is sent. From another one the gateway takes
// what came through it.
func (r *reaches) of(gateway netip.Addr, family int, by *tables) Reach {
	all := r.from(by.own[0], gateway, family, by)
	for _, own := range by.own[1:] {
		all.keepCommon(r.from(own, gateway, family, by))
	}
	reach := Reach{Everything: all.everything, Many: all.many}
	if len(all.networks) > 0 {
		reach.Networks = slices.SortedFunc(maps.Keys(all.networks), netip.Prefix.Compare)
	}
	return reach
}

// from returns what is routed by a gateway in a family for what is sent from one address.
func (r *reaches) from(own, gateway netip.Addr, family int, by *tables) *found {
	all := &found{networks: make(map[netip.Prefix]struct{})}
	for to, f := range r.by {
		if to.device != by.of.Index || to.gateway != gateway || to.family != family {
			continue
		}
		for n := range by.selections {
			if s := &by.selections[n]; s.asks(to.table, by.of, own) {
				all.take(f, s)
			}
		}
	}
	return all
}

// take adds what a table has and a rule does not suppress, as far as the rule leads there. Of a gateway that takes everything no
// longer prefix is known.
func (f *found) take(of *found, s *selection) {
	switch {
	case f.everything || of.everything && s.longer >= 0:
	case of.everything && !s.to.IsValid():
		*f = found{everything: true}
	case of.everything:
		f.add(s.to)
	case of.many:
		*f = found{many: true}
	}
	for network := range of.networks {
		switch {
		case network.Bits() <= s.longer || s.to.IsValid() && !s.to.Overlaps(network):
		case s.to.Bits() > network.Bits():
			f.add(s.to)
		default:
			f.add(network)
		}
	}
}

// keepCommon keeps what another has as well.
func (f *found) keepCommon(other *found) {
	switch {
	case other.everything:
	case f.everything || other.many:
		*f = *other
	default:
		maps.DeleteFunc(f.networks, func(n netip.Prefix, _ struct{}) bool {
			_, isThere := other.networks[n]
			return !isThere
		})
	}
}
