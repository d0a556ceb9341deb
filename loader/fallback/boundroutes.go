// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/gateways"
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

// A socket that is bound to a device is not moved off it, so that replies of its flows are built only where a
// route leads out of that device: without one, IPv6 refuses, and IPv4 takes every peer for a neighbour and asks
// for its MAC in vain (ip_route_output_key_hash_rcu() in net/ipv4/route.c). Where an interface has a
// gateway that takes packets to everywhere, and no default route by it, there is one behind the fallback route: the kernel looks past that for
// sockets that name the interface, and for nobody else. So it is never there without the fallback route.
//
// So it is where no gateway takes everything: the next hop is one that nobody has (bound.go), and the programs give
// each reply the MAC of its flow. What IPv4 sends by it that no flow covers is sent to the peer as a neighbour, as without the route.
// A daemon that names the interface in a control message (in_pktinfo) is served as a bound socket is.

// boundRoutes makes these routes and takes them away.
type boundRoutes struct {
	host *Host
	seen *view
}

// remove removes those of the routes that are there which are not wanted, and returns the others.
func (b *boundRoutes) remove(present, wanted []nexthop.Default) (left []nexthop.Default, err error) {
	isWanted := func(hop nexthop.Default) bool { return slices.Contains(wanted, hop) }
	removed, err := RemoveBound(b.host.Netlink(), slices.DeleteFunc(slices.Clone(present), isWanted))
	if err != nil {
		left = present
	} else {
		left = slices.DeleteFunc(slices.Clone(present), func(hop nexthop.Default) bool { return !isWanted(hop) })
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
func (b *boundRoutes) add(present, wanted []nexthop.Default) (all []nexthop.Default, err error) {
	isPresent := func(hop nexthop.Default) bool { return slices.Contains(present, hop) }
	added, err := AddBound(b.host.Netlink(), slices.DeleteFunc(slices.Clone(wanted), isPresent))
	err = errors.Join(err, setAnyPeers(b.host.Netlink(), wanted)) // somebody may have deleted an entry
	if len(added) > 0 {
		b.host.Tx.OnAbort(func() error {
			_, err := RemoveBound(b.host.Netlink(), added)
			return err
		})
	}
	for _, hop := range added {
		b.host.Log.Info("sockets that are bound to the interface have a default route", "interface", b.host.NameOf(hop.Interface),
			"family", Name(hop.Family), "gateway", hop.Gateway)
	}
	return append(present, added...), err
}

// record writes down which there are.
func (b *boundRoutes) record(present []nexthop.Default) {
	if b.host.Journal.Fallback == nil {
		return
	}
	b.host.Journal.Fallback.Bound = b.records(present)
}

// records are in the order of interfaces and families.
func (b *boundRoutes) records(routes []nexthop.Default) (records []pins.BoundRecord) {
	for _, hop := range routes {
		records = append(records, pins.BoundRecord{
			Interface: hop.Interface, Name: b.host.NameOf(hop.Interface), Family: hop.Family, Gateway: hop.Gateway,
		})
	}
	slices.SortFunc(records, func(a, b pins.BoundRecord) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Family, b.Family))
	})
	return records
}

// wanted returns the routes by these interfaces that there should be beside the fallback routes: none in a VRF,
// which has a table of its own.
func (b *boundRoutes) wanted(interfaces []Interface, families []int) []nexthop.Default {
	var wanted []nexthop.Default
	for _, i := range interfaces {
		if i.VRF != 0 {
			continue
		}
		for _, family := range families {
			isDefault := func(d nexthop.Default) bool { return d.Interface == i.Index && d.Family == family }
			hop, ok := b.nextHop(&i, family)
			if !ok || slices.ContainsFunc(b.seen.Defaults, isDefault) || family == unix.AF_INET6 && b.mayTurnBack(i.Name, hop) {
				continue
			}
			wanted = append(wanted, hop)
		}
	}
	return wanted
}

// mayTurnBack says whether the kernel could send what the host forwards back out by an IPv6 route: where eth0's carrier is
// gone, it would prefer that route to the fallback route (ip6_pol_route_input() and find_rr_leaf() in net/ipv6/route.c). What
// cannot be read leaves the route as it is: under its old name an interface that is renamed has no settings.
func (b *boundRoutes) mayTurnBack(name string, hop nexthop.Default) bool {
	forwarding, err := hostsettings.ReadNumber(hostsettings.Key("ipv6", name, "forwarding"))
	if err != nil {
		return !slices.Contains(b.seen.Bound, hop)
	}
	return forwarding != 0
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
		takes := g.IPv4 && family == unix.AF_INET || g.IPv6 && family == unix.AF_INET6
		if takes && g.Reach(family).Everything {
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
		takes := familyOf(g.Address) == family && (g.IPv4 && family == unix.AF_INET || g.IPv6 && family == unix.AF_INET6)
		if takes && (best == nil || isBetter(g, best, family)) {
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
