// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// selection is a table that the kernel may ask for what this host sends without a mark, with the conditions of the rule.
type selection struct {
	family, table int
	from          netip.Prefix // whose packets; not valid: everybody's
	others        bool         // those of all others instead
	to            netip.Prefix // to whom; not valid: to everybody
	device        string       // of sockets that are bound to it; empty: of all
	longer        int          // routes with a prefix of so many bits or fewer count for nothing; -1: all count
	group         int          // routes by interfaces of this group count for nothing; -1: all count
}

// selections returns the tables that rules lead to, in no particular order. The tables main and default are always among
// them. What a user, a protocol, ports or a TOS alone lead to is left out: not all replies go by that.
func selections(rules []dump.Rule) (all []selection) {
	for _, family := range dump.Families {
		for _, table := range []int{unix.RT_TABLE_MAIN, unix.RT_TABLE_DEFAULT} {
			all = append(all, selection{family: family, table: table, longer: -1, group: -1})
		}
		all = append(all, selectionsOf(rules, family)...)
	}
	return all
}

// selectionsOf goes through the rules of a family in their order. One that takes all unmarked packets somewhere else keeps them
// from those behind it.
func selectionsOf(rules []dump.Rule, family int) (all []selection) {
	next := 0
	for n := range rules {
		r := &rules[n]
		s, matches := selectionOf(r)
		if r.Family != family || r.Priority < next || !matches {
			continue
		}
		switch {
		case r.Action == nl.FR_ACT_TO_TBL:
			all = append(all, s)
		case r.Action == nl.FR_ACT_NOP || s.from.IsValid() || s.to.IsValid() || s.device != "":
		case r.Action == nl.FR_ACT_GOTO:
			next = r.Goto
		default: // it refuses
			return all
		}
	}
	return all
}

// selectionOf returns what a rule selects, and whether it matches unmarked packets of this host at all: fib_rule_match() in
// net/core/fib_rules.c. What the host sends comes in by lo. Inverted, a rule matches where any of its conditions does not.
func selectionOf(r *dump.Rule) (s selection, matches bool) {
	s = selection{
		family: r.Family, table: r.Table, from: dump.Prefix(r.Src), to: dump.Prefix(r.Dst), device: r.OifName,
		longer: r.SuppressPrefixlen, group: r.SuppressIfgroup,
	}
	fails := r.SelectsMarked() || r.IifName != "" && r.IifName != "lo" || r.TunID != 0
	if !r.Invert {
		return s, !fails && !r.SelectsSome()
	}
	if fails || s.device != "" {
		s.from, s.to, s.device = netip.Prefix{}, netip.Prefix{}, ""
		return s, true
	}
	s.others = true
	return s, s.from.IsValid() && !s.to.IsValid() && !r.SelectsSome()
}

// asks tells whether a table is asked for what is sent by an interface from an own address.
func (s *selection) asks(table int, i *discover.Interface, own netip.Addr) bool {
	isFrom := !s.from.IsValid() || s.from.Contains(own) != s.others
	return s.table == table && isFrom && (s.device == "" || s.device == i.Name) && (s.group < 0 || s.group != i.Group)
}

// tables are those that are asked for what is sent by one interface in one family.
type tables struct {
	of         *discover.Interface
	selections []selection
	own        []netip.Addr // from which
}

// tablesOf returns those of an interface. Where it has no address, those that the host has elsewhere are served by it.
func tablesOf(i *discover.Interface, family int, selections []selection, own addressSet) *tables {
	a := &tables{of: i}
	isOf := func(own netip.Addr) bool { return own.Is4() == (family == unix.AF_INET) }
	for _, s := range selections {
		if s.family == family {
			a.selections = append(a.selections, s)
		}
	}
	if i.Table != 0 {
		a.selections = append(a.selections, selection{family: family, table: i.Table, longer: -1, group: -1})
	}
	for _, p := range i.Addresses {
		if isOf(p.Addr()) {
			a.own = append(a.own, p.Addr())
		}
	}
	if len(a.own) > 0 {
		return a
	}
	for at := range own {
		if isOf(at.address) && at.address.IsGlobalUnicast() {
			a.own = append(a.own, at.address)
		}
	}
	a.own = append(a.own, netip.Addr{}) // which only what is for everybody serves
	return a
}

// have tells whether what is sent from any of the addresses may take routes of a table, default routes or others.
func (a *tables) have(table int, isDefault bool) bool {
	return slices.ContainsFunc(a.own, func(own netip.Addr) bool {
		return slices.ContainsFunc(a.selections, func(s selection) bool {
			return s.asks(table, a.of, own) && !(isDefault && s.longer >= 0)
		})
	})
}
