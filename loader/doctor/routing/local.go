// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/snapshot"
)

// AnswersToLo finds chains that mark what this host sends for a rule whose table leads everything to lo, as transparent proxies
// want it of the answers that they pass on: what is so marked never leaves, answers to others among it.
func AnswersToLo(h *snapshot.Host) (found []finding.Finding) {
	for _, r := range h.Rules {
		if !r.HasMark() || r.Mark == 0 || r.Invert || owners.OfRule(&r) != "" || !leadsToLo(h, &r) {
			continue
		}
		restoring := bringingBack(&h.Firewall, &r)
		for _, c := range h.Firewall.Chains {
			if !c.IsHookedAt("output") {
				continue
			}
			for _, rule := range c.Rules {
				gives := rule.Restores && slices.Contains(restoring, c.String())
				for _, mark := range rule.Gives {
					gives = gives || r.SelectsMark(mark)
				}
				if gives {
					found = append(found, finding.Seen(finding.Warning, "", fmt.Sprintf(
						"%s, rule %d marks what this host sends, and %s leads it to lo: answers with the mark do not leave",
						&c, rule.Handle, &r), "nft --handle list chain "+c.Family+" "+finding.Quote(c.Table)+" "+finding.Quote(c.Name)).
						Of(owners.OfChain(c.Table, c.Name)))
				}
			}
		}
	}
	return found
}

// leadsToLo tells whether the table of a rule has everything be local.
func leadsToLo(h *snapshot.Host, r *snapshot.Rule) bool {
	for _, route := range h.Routes {
		if route.Family == r.Family && route.Table == r.Table && route.Type == unix.RTN_LOCAL && route.IsDefault() {
			return true
		}
	}
	return false
}
