// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// Metric is that of the routes, before those for bound sockets.
const Metric uint32 = 1<<32 - 2

// Table holds the routes. Nothing but our rules leads to it (rules.go).
const Table = 114114

// The routes lead through gateways that nobody has, so that all peers share one
// neighbour entry: without them each would take one of its own, of which there are
// 1024 for a start (net.ipv4.neigh.default.gc_thresh3).
var ownGateways = map[int]netip.Addr{
	unix.AF_INET:  netip.MustParseAddr("192.0.0.8"), // the dummy address of RFC 7600, 4.8
	unix.AF_INET6: netip.MustParseAddr("fe80::1"),
}

// destinations are where peers are. /proc/net/ipv6_route shows the routes of all tables, and whoever looks there for a default
// route takes one to :: for it. So there is none: global and unique local addresses, and those of NAT64 (RFC 6052, RFC 8215).
var destinations = map[int][]netip.Prefix{
	unix.AF_INET:  {netip.MustParsePrefix("0.0.0.0/0")},
	unix.AF_INET6: {netip.MustParsePrefix("2000::/3"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("64:ff9b::/32")},
}

// Families are unix.AF_INET and unix.AF_INET6.
var Families = []int{unix.AF_INET, unix.AF_INET6}

// routesBy are the routes by a next hop in these tables.
func routesBy(hop nexthop.Default, tables ...int) (routes []nexthop.OwnRoute) {
	for _, table := range tables {
		for _, to := range destinations[hop.Family] {
			routes = append(routes, nexthop.OwnRoute{Default: hop, Table: table, To: to})
		}
	}
	return routes
}

func (d *Device) hop(family int) nexthop.Default {
	return nexthop.Default{Interface: d.Index, Gateway: ownGateways[family], Family: family}
}

func kernelRoute(r *nexthop.OwnRoute, metric uint32) *netlink.Route {
	return &netlink.Route{
		LinkIndex: r.Interface,
		Table:     r.Table,
		Protocol:  discover.OwnProtocol,
		Priority:  int(metric),
		Flags:     int(netlink.FLAG_ONLINK), // a gateway may be outside the networks of its interface
		Dst:       &net.IPNet{IP: r.To.Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), r.To.Addr().BitLen())},
		Gw:        r.Gateway.AsSlice(),
	}
}

// addRoutes adds those of the wanted routes that are not present, and returns those that are there then.
func addRoutes(nl *netlink.Handle, present, wanted []nexthop.OwnRoute) (there []nexthop.OwnRoute, err error) {
	var errs []error
	for _, route := range wanted {
		if !slices.Contains(present, route) {
			err := nl.RouteAdd(kernelRoute(&route, Metric))
			if err != nil && !errors.Is(err, unix.EEXIST) {
				errs = append(errs, fmt.Errorf("add the %s fallback route: %w", Name(route.Family), err))
				continue
			}
		}
		there = append(there, route)
	}
	return there, errors.Join(errs...)
}

// removeRoutes removes those of the routes that are present which are not wanted.
func removeRoutes(nl *netlink.Handle, present, wanted []nexthop.OwnRoute) error {
	var errs []error
	for _, route := range present {
		if slices.Contains(wanted, route) {
			continue
		}
		err := nl.RouteDel(kernelRoute(&route, Metric))
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("delete the %s fallback route: %w", Name(route.Family), err))
		}
	}
	return errors.Join(errs...)
}

// renew replaces the routes of a family that are there by the same. Sockets that remember one of them look for one anew then.
func renew(nl *netlink.Handle, d *Device, family int) error {
	var errs []error
	for _, route := range routesBy(d.hop(family), Table, unix.RT_TABLE_DEFAULT) {
		err := nl.RouteChange(kernelRoute(&route, Metric))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) &&
			!errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("renew the %s fallback route: %w", Name(family), err))
		}
	}
	return errors.Join(errs...)
}

// haveSocketsForget has sockets that remember a route of table main look for one anew. IPv4's do when any route comes. IPv6's do
// when one comes on whose way from the root of the tree theirs stands, and default routes stand at the root
// (fib6_update_sernum_upto_root() in net/ipv6/ip6_fib.c). It goes again at once.
func haveSocketsForget(nl *netlink.Handle, d *Device, family int) error {
	hop := d.hop(family)
	nowhere := kernelRoute(&nexthop.OwnRoute{
		Default: hop, Table: unix.RT_TABLE_MAIN, To: netip.PrefixFrom(hop.Gateway, hop.Gateway.BitLen()),
	}, Metric)
	nowhere.Gw, nowhere.Flags = nil, 0
	err := nl.RouteAdd(nowhere)
	if err == nil || errors.Is(err, unix.EEXIST) {
		err = nl.RouteDel(nowhere)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENETDOWN) {
		return fmt.Errorf("have sockets look for an %s route again: %w", Name(family), err)
	}
	return nil
}

// Name is how the metrics call a family.
func Name(family int) string {
	if family == unix.AF_INET {
		return "ipv4"
	}
	return "ipv6"
}
