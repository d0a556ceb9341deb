// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"net/netip"

	"replypath/loader/discover/dump"
)

// Routes are what a scan wants to know of the host's routes. It is a dump.Collector.
type Routes struct {
	routed   *dump.Values[routed]
	networks map[int]map[netip.Prefix]struct{} // that are on-link or this host's own, by family
	ways     map[int]map[int]bool              // interfaces that routes lead out of, by family and index
	newWay   bool                              // one of them is new
}

// NewRoutes returns Routes that know of none.
func NewRoutes() *Routes {
	return &Routes{
		routed: dump.NewValues(collectRouted), networks: make(map[int]map[netip.Prefix]struct{}),
		ways: make(map[int]map[int]bool),
	}
}

// Begin is dump.Collector's.
func (r *Routes) Begin(family int) {
	r.routed.Begin(family)
	r.networks[family], r.ways[family] = make(map[netip.Prefix]struct{}), make(map[int]bool)
}

// Collect is dump.Collector's.
func (r *Routes) Collect(route *dump.Route) {
	r.routed.Collect(route)
	collectRouted(route, func(one routed) {
		if ways := r.ways[route.Family]; ways != nil && one.leadsOut() {
			r.newWay = r.newWay || !ways[one.device]
			ways[one.device] = true
		}
		if one.kind != through && r.networks[route.Family] != nil {
			r.networks[route.Family][one.prefix] = struct{}{}
		}
	})
}

// Take replaces what the routes of a family tell by what others know.
func (r *Routes) Take(family int, from *Routes) {
	r.routed.Take(family, from.routed)
	r.networks[family], r.ways[family] = from.networks[family], from.ways[family]
}

// News tells whether a route has told something new since it was asked last.
func (r *Routes) News() bool { return r.routed.News() }

// Keep tells whether a route to a network may be what tells that the network is on-link, or this host's own.
func (r *Routes) Keep(family int, network netip.Prefix) bool {
	_, keeps := r.networks[family][network]
	return keeps
}

// Name tells whether a route names an interface, and whether a default route does.
func (r *Routes) Name(device int) (any, byDefault bool) {
	byDefault = r.routed.Has(func(one routed) bool { return one.device == device && one.byDefault })
	return byDefault || r.routed.Has(func(one routed) bool { return one.device == device }), byDefault
}

// Equal tells whether two know the same.
func (r *Routes) Equal(other *Routes) bool { return r.routed.Equal(other.routed) }

// NewWay tells whether a route has led out of an interface since it was asked last that none led out of before.
func (r *Routes) NewWay() bool {
	isNew := r.newWay
	r.newWay = false
	return isNew
}

// leadOut tells whether routes lead out of an interface, see Result.Caught.
func (r *Routes) leadOut(device int) bool {
	for _, ways := range r.ways {
		if ways[device] {
			return true
		}
	}
	return false
}
