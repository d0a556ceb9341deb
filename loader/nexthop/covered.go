// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"maps"
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
type networks map[int]*ofFamily

// ofFamily are the networks of one family.
type ofFamily struct {
	kept    map[network]bool      // nil where there are too many, as are
	to      map[netip.Prefix]bool // where they lead
	covered map[int]bool          // interfaces, managed or not; nil until somebody asks
	more    overflow
}

// Begin forgets the networks of a family.
func (n networks) Begin(family int) { delete(n, family) }

// Collect adds the networks of a route.
func (n networks) Collect(r *dump.Route) {
	for _, hop := range r.Hops {
		if isCompared(r) {
			n.family(r.Family).add(network{r.Dst.Masked(), hop.Interface})
		}
	}
}

func isCompared(r *dump.Route) bool {
	isApart := r.Table != unix.RT_TABLE_MAIN || r.Protocol == discover.OwnProtocol || r.Dst.Bits() <= 0 || r.Dst.Addr().IsLinkLocalUnicast()
	return r.Type == unix.RTN_UNICAST && !isApart
}

func (n networks) family(family int) *ofFamily {
	if n[family] == nil {
		n[family] = &ofFamily{kept: make(map[network]bool), to: make(map[netip.Prefix]bool)}
	}
	return n[family]
}

func (f *ofFamily) add(to network) {
	switch {
	case f.more.many:
		f.more.add(to.prefix)
	case !f.kept[to]:
		f.kept[to], f.to[to.prefix], f.covered = true, true, nil
	}
	if len(f.kept) > mostNetworks { // of two interfaces that have a route to one, both may go with it
		*f = ofFamily{more: overflow{many: true, count: len(f.to) - mostNetworks, last: to.prefix}}
	}
}

// tell is Collect for a route that has come. It tells whether an interface is covered that was not before, and whether a
// managed one is.
func (n networks) tell(r *dump.Route, isManaged func(int) bool) (any, managed bool) {
	if !isCompared(r) {
		return false, false
	}
	f := n.family(r.Family)
	for _, hop := range r.Hops {
		to := network{r.Dst.Masked(), hop.Interface}
		if f.more.many || f.kept[to] {
			continue
		}
		covered := f.whichAreCovered()
		f.add(to)
		for _, device := range f.coveredBy(to) {
			if !covered[device] {
				covered[device] = true
				any, managed = true, managed || isManaged(device)
			}
		}
		f.covered = covered
		any, managed = any || f.more.many, managed || f.more.many
	}
	return any, managed
}

// coveredBy returns the interfaces that are covered because of one network.
func (f *ofFamily) coveredBy(by network) (devices []int) {
	for other := range f.kept {
		switch {
		case other.device == by.device:
		case other.prefix.Bits() <= by.prefix.Bits() && other.prefix.Contains(by.prefix.Addr()):
			devices = append(devices, by.device)
			if other.prefix == by.prefix {
				devices = append(devices, other.device)
			}
		case by.prefix.Bits() < other.prefix.Bits() && by.prefix.Contains(other.prefix.Addr()):
			devices = append(devices, other.device)
		}
	}
	return devices
}

// mayLose tells whether an interface may not be covered any more when any route to a network has changed. Where none is, one
// route less changes nothing; see Table.route for those that are kept longer than they are there.
func (n networks) mayLose(family int, network netip.Prefix) bool {
	f := n[family]
	switch {
	case f == nil:
		return false
	case f.more.many:
		return f.more.mayEnd()
	}
	return f.to[network] && len(f.whichAreCovered()) > 0
}

// name tells whether a network is known by an interface.
func (n networks) name(device int) bool {
	for _, f := range n {
		for to := range f.kept {
			if to.device == device {
				return true
			}
		}
	}
	return false
}

// equal tells whether the same interfaces are covered.
func (n networks) equal(other networks) bool {
	return maps.EqualFunc(n, other, func(a, b *ofFamily) bool {
		return a.more.many == b.more.many && maps.Equal(a.whichAreCovered(), b.whichAreCovered())
	})
}

// whichAreCovered returns the interfaces that are covered, unless there are too many networks.
func (f *ofFamily) whichAreCovered() map[int]bool {
	if f.covered == nil {
		f.covered = coveredOf(f.kept)
	}
	return f.covered
}

// covered returns those of the interfaces that have a route to a network which lies within one that another interface
// has a route to, in no particular order.
func (n networks) covered(managed []discover.Interface) []Covered {
	var all []Covered
	for family, of := range n {
		found := of.whichAreCovered()
		for i := range managed {
			if found[managed[i].Index] || of.more.many {
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
		if found[n.device] {
			continue
		}
		for bits := range lengths {
			if bits > n.prefix.Bits() {
				continue
			}
			for _, device := range devices[netip.PrefixFrom(n.prefix.Addr(), bits).Masked()] {
				if device != n.device {
					found[n.device] = true
				}
			}
		}
	}
	return found
}
