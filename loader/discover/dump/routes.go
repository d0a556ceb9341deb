// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Route is what the next hops and the neighbourhood of a host depend on.
type Route struct {
	Family   int          // unix.AF_INET or unix.AF_INET6
	Type     int          // unix.RTN_UNICAST, unix.RTN_LOCAL, ...
	Table    int          // unix.RT_TABLE_MAIN, ...
	Metric   int          // the smallest goes first
	TOS      int          // 0: of any packet
	Protocol int          // who made it: unix.RTPROT_BOOT, ...
	Dst      netip.Prefix // all zero for a default route
	Hops     []Hop        // more than one for a multipath route, none for an unreachable one
}

// Hop is one way out of a route.
type Hop struct {
	Interface int        // index, 0 where the route names none
	Gateway   netip.Addr // not valid: what the route leads to is on-link
	Weight    int        // among several, from 1; 0 where it is the only one
}

// Collector takes from the routes what it wants to know. It must not use the handle.
type Collector interface {
	// Begin forgets what the routes of a family told: what they tell follows, perhaps once more.
	Begin(family int)
	// Collect takes a route, in no particular order.
	Collect(r Route)
}

// ReadRoutes has collectors go through the routes of both families in all tables,
// those of VRFs and the local table included. After an error what they hold is of no use.
//
// Routes through nexthop objects look like any other as long as the sysctl
// net.ipv4.nexthop_compat_mode is on, as it is by default; without it, the
// kernel leaves their next hops out.
func ReadRoutes(nl *netlink.Handle, collectors ...Collector) error {
	return readRoutes(func(family int, each func(Route)) error { return eachRoute(nl, family, each) }, collectors)
}

// readRoutes is ReadRoutes by what lists the routes of one family.
func readRoutes(list func(family int, each func(Route)) error, collectors []Collector) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		_, err := retry("routes", func() (none struct{}, err error) {
			for _, c := range collectors {
				c.Begin(family)
			}
			return none, list(family, func(r Route) {
				for _, c := range collectors {
					c.Collect(r)
				}
			})
		})
		if err != nil && !lacksFamily(err) {
			return err
		}
	}
	return nil
}

func eachRoute(nl *netlink.Handle, family int, each func(Route)) error {
	// RT_FILTER_TABLE with the table left unspecified: without it, the library
	// returns nothing but the main table.
	everyTable := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	return nl.RouteListFilteredIter(family, everyTable, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		each(newRoute(&r))
		return true
	})
}

func newRoute(r *netlink.Route) Route {
	route := Route{Family: r.Family, Type: r.Type, Table: r.Table, Metric: r.Priority, TOS: r.Tos, Protocol: int(r.Protocol), Dst: Prefix(r.Dst)}
	for _, hop := range r.MultiPath {
		route.Hops = append(route.Hops, Hop{hop.LinkIndex, gateway(hop.Gw, hop.Via), hop.Hops + 1})
	}
	if len(r.MultiPath) == 0 && r.LinkIndex != 0 {
		route.Hops = append(route.Hops, Hop{Interface: r.LinkIndex, Gateway: Gateway(r)})
	}
	return route
}

// OnlySourcedDefaults tells whether the IPv6 default routes of the main table, of which there is one at least, are all for packets
// from some addresses only (RTA_SRC), which the library leaves out, as routes of a protocol are here. It works in the network namespace
// of the calling thread.
func OnlySourcedDefaults(leftOut int) (bool, error) {
	counts, err := retry("IPv6 default routes", func() (c struct{ sourced, plain int }, err error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6}})
		err = request.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE, func(message []byte) bool {
			r := nl.DeserializeRtMsg(message)
			switch {
			case r.Dst_len != 0 || r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_UNICAST || int(r.Protocol) == leftOut:
			case r.Src_len != 0:
				c.sourced++
			default:
				c.plain++
			}
			return true
		})
		return c, err
	})
	return counts.sourced > 0 && counts.plain == 0, err
}

// Gateway returns the gateway of a route with one next hop; not valid where that is on-link.
func Gateway(r *netlink.Route) netip.Addr { return gateway(r.Gw, r.Via) }

// gateway returns the address of RTA_GATEWAY or, where an IPv4 route leads
// through an IPv6 router, of RTA_VIA.
func gateway(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok {
		gw = v.Addr
	}
	return Address(gw)
}

// Address converts an address; the result is not valid where there is none.
func Address(ip net.IP) netip.Addr {
	address, _ := netip.AddrFromSlice(ip)
	return address.Unmap()
}

// Prefix converts an address with its prefix length, host bits kept; the result
// is not valid where there is none.
func Prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(Address(n.IP), bits)
}
