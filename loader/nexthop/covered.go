// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"maps"
	"net/netip"
	"slices"

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

// mostNetworks is how many networks of a family are compared. Where there are more, every interface
// counts as covered.
const mostNetworks = 4096

// networks are where routes of the main table lead to, but the default ones, which are told apart elsewhere, and but what every
// link has for itself. It is a dump.Collector that bounds what it keeps.
type networks map[int]*ofFamily

// ofFamily are the networks of one family.
type ofFamily struct {
	devices map[netip.Prefix][]int // indices of the interfaces by which a network is reached; nil where there are too many
	many    bool
	covered map[int]bool // interfaces, managed or not; nil until somebody asks
}

// Begin forgets the networks of a family.
func (n networks) Begin(family int) { delete(n, family) }

// Collect adds the networks of a route.
func (n networks) Collect(r *dump.Route) {
	if !isCompared(r) {
		return
	}
	if n[r.Family] == nil {
		n[r.Family] = &ofFamily{devices: make(map[netip.Prefix][]int)}
	}
	for _, hop := range r.Hops {
		n[r.Family].add(r.Dst.Masked(), hop.Interface)
	}
}

func isCompared(r *dump.Route) bool {
	isApart := r.Table != unix.RT_TABLE_MAIN || r.Protocol == discover.OwnProtocol || r.Dst.Bits() <= 0 || r.Dst.Addr().IsLinkLocalUnicast()
	return r.Type == unix.RTN_UNICAST && !isApart
}

func (f *ofFamily) add(network netip.Prefix, device int) {
	if f.many || slices.Contains(f.devices[network], device) {
		return
	}
	f.devices[network], f.covered = append(f.devices[network], device), nil
	if len(f.devices) > mostNetworks {
		*f = ofFamily{many: true}
	}
}

// mayDiffer tells whether other interfaces may be covered once a route has come or gone, or has taken another's place.
func (n networks) mayDiffer(r *dump.Route) bool {
	return r.Table == unix.RT_TABLE_MAIN && (n[r.Family] == nil || !n[r.Family].many)
}

// equal tells whether the same interfaces are covered.
func (n networks) equal(other networks) bool {
	return maps.EqualFunc(n, other, func(a, b *ofFamily) bool {
		return a.many == b.many && maps.Equal(a.whichAreCovered(), b.whichAreCovered())
	})
}

// covered returns those of the interfaces that have a route to a network which lies within one that another interface
// has a route to, in no particular order.
func (n networks) covered(managed []discover.Interface) []Covered {
	var all []Covered
	for family, of := range n {
		found := of.whichAreCovered()
		for i := range managed {
			if found[managed[i].Index] || of.many {
				all = append(all, Covered{managed[i].Index, family})
			}
		}
	}
	return all
}

// whichAreCovered returns the interfaces of which that is true, managed or not, unless there are too many networks.
func (f *ofFamily) whichAreCovered() map[int]bool {
	if f.covered != nil {
		return f.covered
	}
	lengths := make(map[int]bool)
	for network := range f.devices {
		lengths[network.Bits()] = true
	}
	f.covered = make(map[int]bool)
	for network, devices := range f.devices {
		for bits := range lengths {
			if bits > network.Bits() {
				continue
			}
			wider := f.devices[netip.PrefixFrom(network.Addr(), bits).Masked()]
			for _, device := range devices {
				if slices.ContainsFunc(wider, func(other int) bool { return other != device }) {
					f.covered[device] = true
				}
			}
		}
	}
	return f.covered
}
