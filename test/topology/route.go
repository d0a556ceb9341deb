// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Route is a unicast route. The zero Table is main; the zero Metric is the kernel's choice.
type Route struct {
	// Destination is the prefix; the zero Prefix is the default route of Via's family.
	Destination netip.Prefix
	// Via is the gateway; the zero Addr is a directly connected network.
	Via netip.Addr
	// Interface may be left empty where the gateway tells it.
	Interface string
	// Source is the preferred source address.
	Source netip.Addr
	Table  int
	Metric int
}

// AddRoute adds a route.
func (h *Host) AddRoute(r Route) error {
	route, err := h.route(r)
	if err == nil {
		err = h.handle.RouteAdd(route)
	}
	return h.named(err, "add route %s", r)
}

// RemoveRoute removes a route.
func (h *Host) RemoveRoute(r Route) error {
	route, err := h.route(r)
	if err == nil {
		err = h.handle.RouteDel(route)
	}
	return h.named(err, "remove route %s", r)
}

// AddDefault adds a default route by each of the gateways.
func (h *Host) AddDefault(gateways ...netip.Addr) error {
	for _, gateway := range gateways {
		if err := h.AddRoute(Route{Via: gateway}); err != nil {
			return err
		}
	}
	return nil
}

// String reads like the arguments of ip route.
func (r Route) String() string {
	s := "default"
	if r.Destination.IsValid() {
		s = r.Destination.String()
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Interface != "" {
		s += " dev " + r.Interface
	}
	return s
}

func (h *Host) route(r Route) (*netlink.Route, error) {
	route := &netlink.Route{Table: r.Table, Priority: r.Metric}
	if r.Destination.IsValid() {
		route.Dst = ipNet(r.Destination)
	} else {
		route.Dst = ipNet(r.defaultPrefix())
	}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	}
	if r.Source.IsValid() {
		route.Src = r.Source.AsSlice()
	}
	if r.Interface == "" {
		return route, nil
	}
	link, err := h.handle.LinkByName(r.Interface)
	if err != nil {
		return nil, err
	}
	route.LinkIndex = link.Attrs().Index
	return route, nil
}

// defaultPrefix is 0.0.0.0/0 or ::/0.
func (r Route) defaultPrefix() netip.Prefix {
	if FamilyOf(r.Via) == IPv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
