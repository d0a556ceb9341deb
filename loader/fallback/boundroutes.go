// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

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
// Where no gateway takes everything, the next hop is one that nobody has (bound.go), and the programs give
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
