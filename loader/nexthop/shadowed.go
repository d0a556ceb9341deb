// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// Shadowed is a default route that would never be used again if there were one more behind those of the main
// table: what the host starts goes by it.
type Shadowed struct {
	Family int    // unix.AF_INET or unix.AF_INET6
	Which  string // a few words for the status
}

// lateDefault is a default route that may be one of them.
type lateDefault struct {
	family, table int
	metric        uint32
	sourced       bool // for packets from some addresses only
}

// collectLate adds the default routes of all tables.
func collectLate(r *dump.Route, add func(lateDefault)) {
	if r.Type != unix.RTN_UNICAST || r.Dst.Bits() != 0 || r.Protocol == discover.OwnProtocol || r.Table == unix.RT_TABLE_LOCAL {
		return
	}
	late := lateDefault{family: r.Family, table: r.Table}
	if late.isMain() {
		late.metric, late.sourced = uint32(r.Metric), r.Src.Bits() > 0
	}
	add(late)
}

func (d lateDefault) isMain() bool { return d.table == unix.RT_TABLE_MAIN }

// shadowed returns those that would be shadowed, one for each family.
func shadowed(h *netlink.Handle, all []lateDefault) ([]Shadowed, error) {
	var rules []dump.Rule
	if slices.ContainsFunc(all, func(d lateDefault) bool { return !d.isMain() }) {
		var err error
		if rules, err = dump.Rules(h); err != nil {
			return nil, err
		}
	}
	var found []Shadowed
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		isOther := func(d lateDefault) bool { return d.family != family }
		of := slices.DeleteFunc(slices.Clone(all), isOther)
		slices.SortFunc(of, func(a, b lateDefault) int { return cmp.Compare(a.table, b.table) }) // the same one is named each time
		which := shadowedOf(of, asked(rules, family))
		// The kernel looks for a route before it has chosen a source, and once more only where it
		// found none (ip6_dst_lookup_tail() in net/ipv6/ip6_output.c).
		if which == "" && family == unix.AF_INET6 && areSourced(of) {
			which = "for some sources only"
		}
		if which != "" {
			found = append(found, Shadowed{family, which})
		}
	}
	return found, nil
}

// areSourced tells whether the default routes of the main table, of which there is one at least, are all for packets from some
// addresses only.
func areSourced(all []lateDefault) bool {
	isPlain := func(d lateDefault) bool { return d.isMain() && !d.sourced }
	return slices.ContainsFunc(all, lateDefault.isMain) && !slices.ContainsFunc(all, isPlain)
}

// shadowedOf names one of the default routes of a family that would be shadowed, "" where there is none. The tables are those
// that are asked after main.
func shadowedOf(all []lateDefault, later []int) string {
	for _, d := range all {
		switch {
		case !d.isMain() && slices.Contains(later, d.table):
			return fmt.Sprintf("of table %d", d.table)
		case d.isMain() && d.metric >= discover.BoundMetric-1: // the fallback route's, or behind it
			return fmt.Sprintf("of metric %d", d.metric)
		}
	}
	return ""
}

// asked returns the tables of the rules of a family that come after the first by which everybody may take a default route of
// main. A rule for some packets only, as by a mark, leaves all others to the tables behind it.
func asked(rules []dump.Rule, family int) (later []int) {
	hasMain := false
	for _, r := range rules {
		switch {
		case r.Family != family || r.Action != nl.FR_ACT_TO_TBL:
		case r.Table == unix.RT_TABLE_MAIN:
			hasMain = hasMain || r.SuppressPrefixlen < 0 && isForAll(&r.Rule)
		case hasMain:
			later = append(later, r.Table)
		}
	}
	return later
}

// isForAll tells whether a rule has no selector.
func isForAll(r *netlink.Rule) bool {
	selects := r.Mark != 0 || r.Src != nil || r.Dst != nil || r.IifName != "" || r.OifName != "" || r.Tos != 0 || r.TunID != 0 ||
		r.Dport != nil || r.Sport != nil || r.IPProto != 0 || r.UIDRange != nil
	return !selects && !r.Invert
}
