package nexthop

import (
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Covered is a managed interface with a network, of one family, to which another interface has a
// route as well: where the kernel passes over the first one's, it goes by that.
type Covered struct {
	Interface int // index
	Family    int // unix.AF_INET or unix.AF_INET6
}

// collectCovered adds those whose network a route of the main table leads to by another interface, alone or
// with networks around it. Default routes are told apart elsewhere, and what belongs to one link
// only is everywhere.
func collectCovered(managed []discover.Interface, r dump.Route, add func(Covered)) {
	if r.Type != unix.RTN_UNICAST || r.Table != unix.RT_TABLE_MAIN || r.Protocol == discover.OwnProtocol || r.Dst.Bits() <= 0 {
		return
	}
	for i := range managed {
		isOther := func(h dump.Hop) bool { return h.Interface != managed[i].Index }
		for _, own := range managed[i].Addresses {
			isWithin := own.Bits() >= r.Dst.Bits() && r.Dst.Contains(own.Addr())
			if isWithin && !own.Addr().IsLinkLocalUnicast() && slices.ContainsFunc(r.Hops, isOther) {
				add(Covered{managed[i].Index, r.Family})
			}
		}
	}
}
