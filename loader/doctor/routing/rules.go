// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
)

// NeedlessRules finds rules that send what comes from an address of a managed
// interface by a table whose default route leaves by that interface, as people
// type them. It tells which of them are not needed: those without which nothing would go another way.
func NeedlessRules(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, r := range h.Rules {
		if i := h.AnswersBySource(&r); i != nil {
			found = append(found, ruleBySource(h, &r, i))
		}
	}
	return found
}

// ruleBySource tells of a rule whether it is needed. Replies of its interface do without it where replypath corrects
// them. What this host opens from the address does by the strong host model only: else it goes as it is routed.
func ruleBySource(h *snapshot.Host, r *snapshot.Rule, i *discover.Interface) finding.Finding {
	from, unknown, opened := snapshot.OrAll(r.Src), h.UsesError, 0
	for _, u := range h.OpenedNeeding(r, i) {
		if !u.Doubtful {
			opened++
		}
	}
	uses := fmt.Sprintf("%d connections were opened from %s", opened, from)
	switch {
	case unknown != "":
		uses = fmt.Sprintf("what was opened from %s is not known: %s", from, unknown)
	case opened == 1:
		uses = "1 connection was opened from " + from
	}
	f := seenRule(r, finding.OK, i.Name, "")
	switch why := cmp.Or(needsRules(h, i, r.Family), ShieldedBy(h, r), LimitedBy(h, r)); {
	case why != "":
		f.Found = fmt.Sprintf("%s is needed: %s, and %s", r, why, uses)
	case opened > 0 || unknown != "":
		f.Found = fmt.Sprintf("%s is needed: %s", r, uses)
	default:
		f.Severity = finding.Warning
		f.Found = fmt.Sprintf("%s is not needed: replypath sends replies by %s without it, and %s", r, i.Name, opensNothing(h, r, i))
	}
	f.Found += WhereWritten(h, r)
	return f
}

// opensNothing says why nothing that this host opens needs a rule.
func opensNothing(h *snapshot.Host, r *snapshot.Rule, i *discover.Interface) string {
	if h.LeavesAllBySource(r, i) {
		return "host_model: strong what this host opens"
	}
	if h.OpenedRelated(r) {
		return fmt.Sprintf("what this host opened from %s is related to what its peers began", snapshot.OrAll(r.Src))
	}
	return "nothing that this host opened uses " + snapshot.OrAll(r.Src)
}

// needsRules says why replies of an interface need rules that lead them by it, empty
// where they do not: the programs are on every managed interface, and both the one
// that replies belong to and the one that the kernel chooses without rules, unless it
// only catches them, enforce.
func needsRules(h *snapshot.Host, i *discover.Interface, family int) string {
	if !h.Attached || len(h.MissingPrograms()) > 0 {
		return "replypath is not attached"
	}
	best := h.BestDefault(family)
	if best == nil {
		return noOtherDefault
	}
	if why := NeedsRules(h, family); why != "" {
		return why
	}
	for _, device := range []int{i.Index, best.Device} {
		if name := h.DeviceName(device); name != discover.OwnDevice && !h.Catches(name) && !h.Enforcing[device] {
			return "replypath does not enforce on " + name
		}
	}
	return ""
}

const noOtherDefault = "no other default route has replies be built"

// NeedsRules says why replies would need rules also if replypath enforced everywhere, empty where they would not.
func NeedsRules(h *snapshot.Host, family int) string {
	if leavesAlone(h.Config) {
		return "replypath leaves alone what the configuration excludes or does not list as protocols"
	}
	best := h.BestDefault(family)
	switch {
	case best == nil && h.Config.FallbackRoute: // replypath makes one
		return ""
	case best == nil || best.Refuses():
		return noOtherDefault
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

// WhereWritten names the lines that a rule's source stands on, as the end of a sentence.
func WhereWritten(h *snapshot.Host, r *snapshot.Rule) string {
	places := h.Written[r.Src.Masked()]
	switch {
	case !r.Src.IsValid():
		return "" // nothing to tell it by
	case len(places) > 0:
		return "; its source stands in " + strings.Join(places, ", ")
	case h.Unread[snapshot.PartFiles]+h.Failed[snapshot.PartFiles] != "":
		return "; not all files of the network could be read"
	}
	return "; no known file makes it at boot"
}

// NeedlessMarks finds connection marks that lead replies to a table: a rule with
// a mark whose table leaves by a managed interface, and firewall rules that bring
// the mark back from the connection.
func NeedlessMarks(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, r := range h.Rules {
		restoring := RestoringChains(h, &r)
		if len(restoring) == 0 {
			continue
		}
		for _, i := range h.Interfaces {
			if h.LeavesBy(r.Family, r.Table, i.Index) {
				found = append(found, ruleByMark(h, &r, &i, restoring))
			}
		}
	}
	return found
}

// RestoringChains names the chains that bring back the mark by which a rule leads to a table; none where the rule has
// another purpose.
func RestoringChains(h *snapshot.Host, r *snapshot.Rule) []string {
	if r.Mark == 0 || r.Invert || r.Table == 0 || isEverybodys(r.Table) || r.Src.IsValid() || r.Dst.IsValid() || owners.OfRule(r) != "" {
		return nil
	}
	return bringingBack(&h.Firewall, r)
}

// isEverybodys tells the tables that the kernel itself has rules for.
func isEverybodys(table int) bool {
	return table == unix.RT_TABLE_MAIN || table == unix.RT_TABLE_DEFAULT || table == unix.RT_TABLE_LOCAL
}

// ruleByMark tells of a rule by a connection's mark. It is never said not to be needed,
// as what else has the mark is not to be seen.
func ruleByMark(h *snapshot.Host, r *snapshot.Rule, i *discover.Interface, restoring []string) finding.Finding {
	text := fmt.Sprintf("%s leads back by %s what has the connection mark of %s", r, i.Name, strings.Join(restoring, ", "))
	f := seenRule(r, finding.OK, i.Name, "")
	if why := needsRules(h, i, r.Family); why != "" {
		text += ": replies need it, as " + why
	} else {
		f.Severity = finding.Warning
		text += ": replypath does this work for replies, what else has the mark is not known here"
	}
	f.Found = text + WhereWritten(h, r)
	return f
}

// RulesThatNeverMatch finds rules for an own address with an incoming interface.
// What the host sends comes in by lo, so that `ip rule add from 10.4.0.100 dev
// eth1`, where dev means iif, never matches (fib_rule_match).
func RulesThatNeverMatch(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, r := range h.Rules {
		if NeverMatches(&h.Links, &r) {
			found = append(found, seenRule(&r, finding.Warning, r.IIF,
				fmt.Sprintf("%s never matches: %s%s", &r, devMeansIIF, WhereWritten(h, &r))))
		}
	}
	return found
}

// NeverMatches tells a rule with an own address and an incoming interface.
func NeverMatches(l *snapshot.Links, r *snapshot.Rule) bool {
	return !r.Invert && r.IIF != "" && r.IIF != "lo" && r.Src.IsSingleIP() && l.IsOwn(r.Src.Addr())
}

const devMeansIIF = "dev means iif, and what this host sends arrives by lo"

// seenRule makes a finding about a rule.
func seenRule(r *snapshot.Rule, severity finding.Severity, device, text string) finding.Finding {
	return finding.Seen(severity, device, text, ip[r.Family]+"rule show").Of(owners.OfRule(r))
}

// bringingBack names the chains that bring a mark that a rule selects by back from
// the connection to packets of its family. The marks that are to be seen are compared
// as the rule does, with its mask; where none is, any may be meant.
func bringingBack(f *netfilter.Ruleset, r *snapshot.Rule) []string {
	others := "ip6"
	if r.Family == unix.AF_INET6 {
		others = "ip"
	}
	var names []string
	var marks []uint32
	for _, c := range f.Chains {
		if c.Family == others {
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
