// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// Of an interface without a known gateway the route leads by a next hop that nobody has, and whose neighbour entry holds a MAC
// that nobody has (bpf/src/outage.h): so the kernel builds replies, which get the MAC of their flow on egress. The entry is a
// permanent one, as it is to serve without us as the route does; both are taken back together.
var anyPeer = map[int]netip.Addr{
	unix.AF_INET:  netip.MustParseAddr("192.0.0.8"), // as routes to our own device have it
	unix.AF_INET6: netip.MustParseAddr("fe80::7265:706c:7900"),
}

// AnyPeer is the next hop by an interface of which no gateway is known.
func AnyPeer(device, family int) nexthop.Default {
	return nexthop.Default{Interface: device, Gateway: anyPeer[family], Family: family}
}

// isAnyPeer tells whether a next hop is such a one.
func isAnyPeer(hop nexthop.Default) bool { return hop.Gateway == anyPeer[hop.Family] }

// anyPeerEntry is its neighbour entry.
func anyPeerEntry(hop nexthop.Default) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: hop.Interface, IP: hop.Gateway.AsSlice(), HardwareAddr: bpf.AnyPeer, State: netlink.NUD_PERMANENT,
	}
}

// setAnyPeers makes the neighbour entries of those of the next hops that have one. What goes with its interface is none
// of its errors.
func setAnyPeers(nl *netlink.Handle, routes []nexthop.OwnRoute) error {
	var errs []error
	for _, hop := range hopsOf(routes) {
		if !isAnyPeer(hop) {
			continue
		}
		err := nl.NeighSet(anyPeerEntry(hop))
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) {
			errs = append(errs, fmt.Errorf("set the neighbour entry of %s on interface %d: %w", hop.Gateway, hop.Interface, err))
		}
	}
	return errors.Join(errs...)
}

// hopsOf are the next hops of routes, each once.
func hopsOf(routes []nexthop.OwnRoute) (hops []nexthop.Default) {
	for _, r := range routes {
		if !slices.Contains(hops, r.Default) {
			hops = append(hops, r.Default)
		}
	}
	return hops
}

// RoutesBy are the routes by these next hops, each in the tables where a fallback route of its family stands.
func RoutesBy(hops []nexthop.Default, fallbacks []nexthop.OwnRoute) (routes []nexthop.OwnRoute) {
	for _, hop := range hops {
		tables := []int{Table}
		for _, route := range fallbacks {
			if route.Family == hop.Family && !slices.Contains(tables, route.Table) {
				tables = append(tables, route.Table)
			}
		}
		routes = append(routes, routesBy(hop, tables...)...)
	}
	return routes
}

// AddBound adds routes for sockets that are bound to a device, behind the fallback route of their family,
// which has to be there. It returns those that it has added: an interface that is down or gone gets none.
func AddBound(nl *netlink.Handle, routes []nexthop.OwnRoute) (added []nexthop.OwnRoute, err error) {
	errs := []error{setAnyPeers(nl, routes)}
	for _, hop := range routes {
		switch err := nl.RouteAppend(kernelRoute(&hop, discover.BoundMetric)); { // of one metric, IPv4 takes several only so
		case err == nil:
			added = append(added, hop)
		case !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("add the %s route for bound sockets by %s: %w", Name(hop.Family), hop.Gateway, err))
		}
	}
	return added, errors.Join(errs...)
}

// RemoveBound removes such routes, before the fallback route. One that has gone already is no error.
func RemoveBound(nl *netlink.Handle, routes []nexthop.OwnRoute) (removed []nexthop.OwnRoute, err error) {
	var errs []error
	for _, hop := range routes {
		switch err := nl.RouteDel(kernelRoute(&hop, discover.BoundMetric)); {
		case err == nil:
			removed = append(removed, hop)
		case !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("delete the %s route for bound sockets by %s: %w", Name(hop.Family), hop.Gateway, err))
			continue
		}
		if hop.Table != unix.RT_TABLE_DEFAULT { // whose other one stays
			errs = append(errs, forgetAnyPeer(nl, hop.Default))
		}
	}
	return removed, errors.Join(errs...)
}

// forgetAnyPeer deletes the neighbour entry of a next hop that has one.
func forgetAnyPeer(nl *netlink.Handle, hop nexthop.Default) error {
	if !isAnyPeer(hop) {
		return nil
	}
	err := nl.NeighDel(anyPeerEntry(hop))
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	return fmt.Errorf("delete the neighbour entry of %s on interface %d: %w", hop.Gateway, hop.Interface, err)
}
