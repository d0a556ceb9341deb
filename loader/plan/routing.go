// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/checks"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
)

// needsRules says why replies need rules also if replypath enforces everywhere, empty where they do not.
func needsRules(h *snapshot.Host, family int) string {
	if leavesAlone(h.Config) {
		return "replypath leaves alone what the configuration excludes or does not list as protocols"
	}
	best := h.BestDefault(family)
	switch {
	case best == nil && h.Config.FallbackRoute: // replypath makes one
		return ""
	case best == nil || best.Refuses():
		return "no other default route has replies be built"
	}
	for _, hop := range h.HopsLike(best) {
		if name := h.DeviceName(hop.Device); name != discover.OwnDevice && !h.Sees(name) {
			return fmt.Sprintf("the default route leads by %s, where nothing catches replies", name)
		}
	}
	return ""
}

// leavesAlone tells whether the configuration has replypath serve less than usual.
func leavesAlone(c *config.Config) bool {
	unlisted := func(protocol uint8) bool { return !slices.Contains(c.Protocols, protocol) }
	return len(c.Exclude) > 0 || slices.ContainsFunc(config.Default().Protocols, unlisted)
}

// refusedWithout says what of the firewall may refuse replies of a family, before replypath sees them, if no rule had their route
// lead by their own interface; empty for nothing.
func refusedWithout(h *snapshot.Host, family int) string {
	if h.Unread[snapshot.PartFirewall]+h.Failed[snapshot.PartFirewall] != "" {
		return "what the firewall does with replies whose route leads elsewhere is not known"
	}
	for n := range h.Firewall.Chains {
		c := &h.Firewall.Chains[n]
		if rules := checks.ByOutgoing(h, c); rules != "" && c.Family != otherFamily[family] {
			return "without it the firewall may drop replies before they are moved: " + c.String() + rules
		}
	}
	return ""
}

// otherFamily is nft's word for the family of addresses that is not the one.
var otherFamily = map[int]string{unix.AF_INET: "ip6", unix.AF_INET6: "ip"}

// shieldedBy says from what else than the default routes a rule for the source of an interface keeps replies, as far as
// routes and other rules tell: what refuses, or leads by an interface where nothing catches them. It is empty for nothing.
func shieldedBy(h *snapshot.Host, rule *snapshot.Rule) string {
	for n := range h.Routes {
		r := &h.Routes[n]
		if r.Family == rule.Family && r.Refuses() && !r.IsDefault() && h.IsForAll(r.Family, r.Table) && !isDaemons(r.Protocol) {
			return checks.Show(&h.Links, r) + " refuses replies"
		}
	}
	for n := range h.Rules {
		other := &h.Rules[n]
		if other.Family != rule.Family || other == rule || !other.MayMatch(rule.Src) || h.AnswersBySource(other) != nil {
			continue
		}
		if other.Refuses != "" {
			return other.String() + " refuses replies"
		}
		for m := range h.Routes {
			r := &h.Routes[m]
			if !other.SuppressesDefault && r.Family == other.Family && r.Table == other.Table && r.IsDefault() && r.IsUnicast() && !h.Sees(h.DeviceName(r.Device)) {
				return fmt.Sprintf("%s leads replies by %s, where nothing catches them", other, h.DeviceName(r.Device))
			}
		}
	}
	return ""
}

// isDaemons tells the routes of routing daemons, which refuse a network as a
// whole while more specific routes lead into it (linux/rtnetlink.h). 80 is
// Calico's.
func isDaemons(protocol int) bool {
	return protocol == unix.RTPROT_KERNEL || protocol > unix.RTPROT_STATIC && protocol != unix.RTPROT_DHCP
}

// limitedBy says what a route of the rule's table does to replies that they would not have without the rule, empty for
// nothing: replypath sends them as large as the interface takes them, whatever its routes say.
func limitedBy(h *snapshot.Host, rule *snapshot.Rule) string {
	for n := range h.Routes {
		r := &h.Routes[n]
		i := h.Managed(r.Device)
		if r.Family != rule.Family || r.Table != rule.Table || i == nil {
			continue
		}
		switch limits := r.Limits; {
		case limits.Encapsulates:
			return checks.Show(&h.Links, r) + " encapsulates replies"
		case limits.MTU != 0 && limits.MTU < i.MTU:
			return fmt.Sprintf("%s has an MTU of %d, and replypath sends what %s takes, %d", checks.Show(&h.Links, r), limits.MTU, i.Name, i.MTU)
		case limits.MSS != 0 && limits.MSS < i.MTU-tcpHeaders[r.Family]:
			return fmt.Sprintf("%s announces an MSS of %d, which replypath does not", checks.Show(&h.Links, r), limits.MSS)
		case limits.Others:
			return checks.Show(&h.Links, r) + " has metrics that replies would not have without it"
		}
	}
	return ""
}

// tcpHeaders are those before what a segment may have, without options, in bytes (RFC 9293, 3.7.1).
var tcpHeaders = map[int]int{unix.AF_INET: 40, unix.AF_INET6: 60}

// restoringChains names the chains that bring back the mark by which a rule leads to a table; none where the rule has
// another purpose.
func restoringChains(h *snapshot.Host, r *snapshot.Rule) []string {
	if r.Mark == 0 || r.Invert || r.Table == 0 || isEverybodys(r.Table) || r.Src.IsValid() || r.Dst.IsValid() {
		return nil
	}
	return bringingBack(&h.Firewall, r)
}

// isEverybodys tells the tables that the kernel itself has rules for.
func isEverybodys(table int) bool {
	return table == unix.RT_TABLE_MAIN || table == unix.RT_TABLE_DEFAULT || table == unix.RT_TABLE_LOCAL
}

// bringingBack names the chains that bring a mark that a rule selects by back from
// the connection to packets of its family. The marks that are to be seen are compared
// as the rule does, with its mask; where none is, any may be meant.
func bringingBack(f *netfilter.Ruleset, r *snapshot.Rule) []string {
	var names []string
	var marks []uint32
	for _, c := range f.Chains {
		if c.Family == otherFamily[r.Family] {
			continue
		}
		if slices.ContainsFunc(c.Rules, func(r netfilter.Rule) bool { return r.Restores }) {
			names = append(names, c.String())
		}
		for _, rule := range c.Rules {
			marks = append(marks, rule.Marks...)
		}
	}
	if len(marks) > 0 && !slices.ContainsFunc(marks, r.SelectsMark) {
		return nil
	}
	return names
}
