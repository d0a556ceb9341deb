// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
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

// refusedWithout says what of the firewall may refuse replies of a family, before replypath sees them, if no rule had their route
// lead by their own interface; empty for nothing.
func refusedWithout(h *snapshot.Host, family int) string {
	if h.Unread[snapshot.PartFirewall]+h.Failed[snapshot.PartFirewall] != "" {
		return "what the firewall does with replies whose route leads elsewhere is not known"
	}
	for n := range h.Firewall.Chains {
		c := &h.Firewall.Chains[n]
		if rules := byOutgoing(h, c); rules != "" && c.Family != otherFamily[family] {
			return "without it the firewall may drop replies before they are moved: " + c.String() + rules
		}
	}
	return ""
}

// otherFamily is nft's word for the family of addresses that is not the one.
var otherFamily = map[int]string{unix.AF_INET: "ip6", unix.AF_INET6: "ip"}

// leavesAlone tells whether the configuration has replypath serve less than usual.
func leavesAlone(c *config.Config) bool {
	unlisted := func(protocol uint8) bool { return !slices.Contains(c.Protocols, protocol) }
	return len(c.Exclude) > 0 || slices.ContainsFunc(config.Default().Protocols, unlisted)
}

// RestoringChains names the chains that bring back the mark by which a rule leads to a table; none where the rule has
// another purpose.
func RestoringChains(h *snapshot.Host, r *snapshot.Rule) []string {
	if r.Mark == 0 || r.Invert || r.Table == 0 || isEverybodys(r.Table) || r.Src.IsValid() || r.Dst.IsValid() {
		return nil
	}
	return bringingBack(&h.Firewall, r)
}

// isEverybodys tells the tables that the kernel itself has rules for.
func isEverybodys(table int) bool {
	return table == unix.RT_TABLE_MAIN || table == unix.RT_TABLE_DEFAULT || table == unix.RT_TABLE_LOCAL
}

// neverMatches tells a rule with an own address and an incoming interface.
func neverMatches(l *snapshot.Links, r *snapshot.Rule) bool {
	return !r.Invert && r.IIF != "" && r.IIF != "lo" && r.Src.IsSingleIP() && l.IsOwn(r.Src.Addr())
}

const devMeansIIF = "dev means iif, and what this host sends arrives by lo"

// seenRule makes a finding about a rule.
func seenRule(r *snapshot.Rule, severity finding.Severity, device, text string) finding.Finding {
	return finding.Seen(severity, device, text, ip[r.Family]+"rule show").Of(r.Owner())
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

// ip is the beginning of a command of ip(8) about a family.
var ip = map[int]string{unix.AF_INET: "ip ", unix.AF_INET6: "ip -6 "}
