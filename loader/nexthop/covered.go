// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Covered is a managed interface with a route, of one family, to what another interface has a
// route to as well: where the kernel passes over the first one's, it goes by that.
type Covered struct {
	Interface int // index
	Family    int // unix.AF_INET or unix.AF_INET6
}

// mostNetworks is how many routes of a family are compared. Where there are more, every interface
// counts as covered.
const mostNetworks = 4096

// network is where a route of the main table leads to, and by which interface.
type network struct {
	prefix netip.Prefix
	device int // index
}

// networks are those of all routes but the default ones, which are told apart elsewhere, and but what every
// link has for itself. It is a dump.Collector that bounds what it keeps.
type networks map[int]map[network]bool // by family

// Begin forgets the networks of a family.
func (n networks) Begin(family int) { delete(n, family) }

// Collect adds the networks of a route.
func (n networks) Collect(r dump.Route) {
	isApart := r.Table != unix.RT_TABLE_MAIN || r.Protocol == discover.OwnProtocol || r.Dst.Bits() <= 0 || r.Dst.Addr().IsLinkLocalUnicast()
	if r.Type != unix.RTN_UNICAST || isApart {
		return
	}
	if n[r.Family] == nil {
		n[r.Family] = make(map[network]bool)
	}
	for _, hop := range r.Hops {
		if len(n[r.Family]) <= mostNetworks {
			n[r.Family][network{r.Dst.Masked(), hop.Interface}] = true
		}
	}
}

// covered returns those of the interfaces that have a route to a network which lies within one that another interface
// has a route to, in no particular order.
func (n networks) covered(managed []discover.Interface) []Covered {
	var all []Covered
	for family, of := range n {
		found := make(map[int]bool)
		if len(of) <= mostNetworks {
			found = coveredOf(of)
		}
		for i := range managed {
			if found[managed[i].Index] || len(of) > mostNetworks {
				all = append(all, Covered{managed[i].Index, family})
			}
		}
	}
	return all
}

// coveredOf returns the interfaces of which that is true, managed or not.
func coveredOf(of map[network]bool) map[int]bool {
	devices, lengths := make(map[netip.Prefix][]int), make(map[int]bool)
	for n := range of {
		devices[n.prefix] = append(devices[n.prefix], n.device)
		lengths[n.prefix.Bits()] = true
	}
	found := make(map[int]bool)
	for n := range of {
		for bits := range lengths {
			if found[n.device] || bits > n.prefix.Bits() {
				continue
			}
			for _, device := range devices[netip.PrefixFrom(n.prefix.Addr(), bits).Masked()] {
				found[n.device] = found[n.device] || device != n.device
			}
		}
	}
	return found
}
