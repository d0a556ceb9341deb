// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"net/netip"

	"replypath/loader/discover/dump"
)

// Routes are what a scan wants to know of the host's routes. It is a dump.Collector.
type Routes struct {
	routed   *dump.Values[routed]
	defaults *dump.Values[defaultHop]
	networks map[int]map[netip.Prefix]struct{} // that are on-link or this host's own, by family
}

// NewRoutes returns Routes that know of none.
func NewRoutes() *Routes {
	return &Routes{
		routed: dump.NewValues(collectRouted), defaults: dump.NewValues(collectDefaults),
		networks: make(map[int]map[netip.Prefix]struct{}),
	}
}

// Begin is dump.Collector's.
func (r *Routes) Begin(family int) {
	r.routed.Begin(family)
	r.defaults.Begin(family)
	r.networks[family] = make(map[netip.Prefix]struct{})
}

// Collect is dump.Collector's.
func (r *Routes) Collect(route *dump.Route) {
	r.routed.Collect(route)
	r.defaults.Collect(route)
	collectRouted(route, func(one routed) {
		if one.kind != through && r.networks[route.Family] != nil {
			r.networks[route.Family][one.prefix] = struct{}{}
		}
	})
}

// Take replaces what the routes of a family tell by what others know.
func (r *Routes) Take(family int, from *Routes) {
	r.routed.Take(family, from.routed)
	r.defaults.Take(family, from.defaults)
	r.networks[family] = from.networks[family]
}

// News tells whether a route has told something new since it was asked last.
func (r *Routes) News() bool {
	news := r.routed.News()
	return r.defaults.News() || news
}

// Keep tells whether a route to a network may be what tells that the network is on-link, or this host's own.
func (r *Routes) Keep(family int, network netip.Prefix) bool {
	_, keeps := r.networks[family][network]
	return keeps
}

// Name tells whether a route names an interface, and whether a default route does.
func (r *Routes) Name(device int) (any, byDefault bool) {
	byDefault = r.defaults.Has(func(hop defaultHop) bool { return hop.device == device })
	return byDefault || r.routed.Has(func(one routed) bool { return one.device == device }), byDefault
}

// Equal tells whether two know the same.
func (r *Routes) Equal(other *Routes) bool {
	return r.routed.Equal(other.routed) && r.defaults.Equal(other.defaults)
}
