// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/discover"
	"replypath/loader/gateways"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/sockets"
)

// A socket that is bound to a device is not moved off it, so that replies of its flows are built only where a
// route leads out of that device: without one, IPv6 refuses, and IPv4 takes every peer for a neighbour and asks
// for its MAC in vain (ip_route_output_key_hash_rcu() in net/ipv4/route.c). So an interface without a default route has one
// behind the fallback route: the kernel looks past that for sockets that name the interface, and for nobody else. A rule for
// the device leads to it, or for IPv4 the table `default`.
//
// Where no gateway takes everything, the next hop is one that nobody has (anyPeer), and the programs give
// each reply the MAC of its flow. What IPv4 sends by it that no flow covers is sent to the peer as a neighbour, as without the route.
// A daemon that names the interface in a control message (in_pktinfo) is served as a bound socket is.

// boundRoutes makes these routes and takes them away.
type boundRoutes struct {
	host *Host
	seen *view
	used map[int]bool // devices that sockets have been bound to by IPv6; nil until it was looked for them
}

// lookForSockets looks for IPv6 sockets that are bound to a device, and tells whether there is one of another device than so
// far: only those pay for a rule. What they have begun goes on when they close, so that the rule stays.
func (b *boundRoutes) lookForSockets() (news bool) {
	isOther := func(route nexthop.OwnRoute) bool { return route.Family != unix.AF_INET6 || b.used[route.Interface] }
	unused := hopsOf(slices.DeleteFunc(slices.Clone(b.seen.Bound), isOther))
	isFirst := b.used == nil
	if len(unused) == 0 && !isFirst {
		return false
	}
	devices, err := sockets.Bound(isFirst)
	if isFirst {
		b.used = make(map[int]bool)
	}
	for _, device := range devices {
		news = news || slices.ContainsFunc(unused, func(hop nexthop.Default) bool { return hop.Interface == device })
		b.used[device] = true
	}
	for _, hop := range unused {
		b.used[hop.Interface] = b.used[hop.Interface] || err != nil // of what is not known they may be
	}
	return news
}

// isRuled tells whether a rule for its device is to lead to a route: IPv4 finds another one in the table `default`.
func (b *boundRoutes) isRuled(hop nexthop.Default) bool {
	return slices.Contains(b.seen.bereft, hop.Family) || hop.Family == unix.AF_INET6 && b.used[hop.Interface]
}

// remove removes those of the routes that are there which are not wanted, and returns the others.
func (b *boundRoutes) remove(present, wanted []nexthop.OwnRoute) (left []nexthop.OwnRoute, err error) {
	isWanted := func(route nexthop.OwnRoute) bool { return slices.Contains(wanted, route) }
	removed, err := RemoveBound(b.host.Netlink(), slices.DeleteFunc(slices.Clone(present), isWanted))
	if err != nil {
		left = present
	} else {
		left = slices.DeleteFunc(slices.Clone(present), func(route nexthop.OwnRoute) bool { return !isWanted(route) })
	}
	if len(removed) > 0 {
		b.host.Tx.OnAbort(func() error {
			_, err := AddBound(b.host.Netlink(), removed)
			return err
		})
	}
	return left, err
}

// add adds the wanted routes that are not there, and returns all. Whether somebody has deleted them, or the kernel with an address
// or a link that was back at once, is not known: it is no repair that would be counted.
func (b *boundRoutes) add(present, wanted []nexthop.OwnRoute) (all []nexthop.OwnRoute, err error) {
	isPresent := func(route nexthop.OwnRoute) bool { return slices.Contains(present, route) }
	added, err := AddBound(b.host.Netlink(), slices.DeleteFunc(slices.Clone(wanted), isPresent))
	err = errors.Join(err, setAnyPeers(b.host.Netlink(), wanted)) // somebody may have deleted an entry
	if len(added) > 0 {
		b.host.Tx.OnAbort(func() error {
			_, err := RemoveBound(b.host.Netlink(), added)
			return err
		})
	}
	for _, hop := range hopsOf(added) {
		b.host.Log.Info("sockets that are bound to the interface have a default route", "interface", b.host.NameOf(hop.Interface),
			"family", Name(hop.Family), "gateway", hop.Gateway)
	}
	return append(present, added...), err
}

// record writes down which there are.
func (b *boundRoutes) record(present []nexthop.OwnRoute) {
	if b.host.Journal.Fallback == nil {
		return
	}
	b.host.Journal.Fallback.Bound = b.records(hopsOf(present))
}

// records are in the order of interfaces and families.
func (b *boundRoutes) records(hops []nexthop.Default) (records []pins.BoundRecord) {
	for _, hop := range hops {
		records = append(records, pins.BoundRecord{
			Interface: hop.Interface, Name: b.host.NameOf(hop.Interface), Family: hop.Family, Gateway: hop.Gateway,
		})
	}
	slices.SortFunc(records, func(a, b pins.BoundRecord) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Family, b.Family))
	})
	return records
}

// wanted returns the routes by these interfaces that there should be beside the fallback routes.
func (b *boundRoutes) wanted(interfaces []Interface, families []int) (routes []nexthop.OwnRoute) {
	for _, hop := range b.hops(interfaces, families) {
		routes = append(routes, routesBy(hop, b.seen.tables(hop.Family)...)...)
	}
	return routes
}

// hops are those of the routes: none in a VRF, which has a table of its own.
func (b *boundRoutes) hops(interfaces []Interface, families []int) []nexthop.Default {
	var wanted []nexthop.Default
	for _, i := range interfaces {
		if i.VRF != 0 {
			continue
		}
		for _, family := range families {
			isDefault := func(d nexthop.Default) bool { return d.Interface == i.Index && d.Family == family }
			hop, ok := b.nextHop(&i, family)
			if !ok || slices.ContainsFunc(b.seen.Defaults, isDefault) {
				continue
			}
			wanted = append(wanted, hop)
		}
	}
	return wanted
}

// nextHop returns the next hop of such a route: a known gateway, or one that stands for all peers, whose replies get
// the MAC of their flow on egress.
func (b *boundRoutes) nextHop(i *Interface, family int) (hop nexthop.Default, ok bool) {
	gateway := b.gateway(i.Index, family)
	hasAddress := slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return familyOf(p.Addr()) == family })
	if hasAddress && i.MAC != nil && !i.NoARP && !b.takesEverything(i.Index, family) {
		return AnyPeer(i.Index, family), true
	}
	if gateway == nil {
		return nexthop.Default{}, false
	}
	return nexthop.Default{Interface: i.Index, Gateway: gateway.Address, Family: family}, true
}

// takesEverything tells whether a gateway of an interface takes packets of a family to everywhere, be it named by an address
// of the other. One to which a route to some network leads would lose what sockets begin to somebody else.
func (b *boundRoutes) takesEverything(device, family int) bool {
	for _, g := range b.host.Gateways(device) {
		if g.Takes(family) && g.Reach(family).Everything {
			return true
		}
	}
	return false
}

// gateway returns a gateway of an interface that has an address of a family, one that takes everything and whose MAC
// is known if there is any; nil where there is none. On egress each reply gets the MAC of its flow's.
func (b *boundRoutes) gateway(device, family int) *gateways.View {
	var best *gateways.View
	for _, g := range b.host.Gateways(device) {
		if familyOf(g.Address) == family && g.Takes(family) && (best == nil || isBetter(g, best, family)) {
			best = g
		}
	}
	return best
}

func isBetter(g, other *gateways.View, family int) bool {
	if takesAll := g.Reach(family).Everything; takesAll != other.Reach(family).Everything {
		return takesAll
	}
	if known := g.ReplyMAC != nil; known != (other.ReplyMAC != nil) {
		return known
	}
	return g.Address.Less(other.Address)
}

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
