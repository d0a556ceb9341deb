// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"net"
	"net/netip"
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
	Src      netip.Prefix // whose packets it is for (RTA_SRC); all zero for everybody's
	Limits   Limits       // of the packets that go by it
	Hops     []Hop        // more than one for a multipath route, none for an unreachable one
	Another  bool         // all but Dst is as in the route that was collected before
}

// Limits are what a route does to packets beside leading them somewhere: 0 and false for nothing.
type Limits struct {
	MTU, MSS     int  // bytes (RTAX_MTU, RTAX_ADVMSS)
	Others       bool // it has other metrics: a window, a hop limit, an algorithm, ...
	Encapsulates bool // RTA_ENCAP, of any of its hops
}

// Hop is one way out of a route.
type Hop struct {
	Interface int        // index, 0 where the route names none
	Gateway   netip.Addr // not valid: what the route leads to is on-link
	Weight    int        // among several, from 1; 0 where it is the only one
}

// Collector takes from the routes what it wants to know.
type Collector interface {
	// Begin forgets what the routes of a family told: what they tell follows, perhaps once more.
	Begin(family int)
	// Collect takes a route, in no particular order. It is valid until Collect returns.
	Collect(r *Route)
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
