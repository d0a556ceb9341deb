package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
)

// needlessRules finds rules that send what comes from an address of a managed
// interface by a table whose default route leaves by that interface, as people
// type them, and the lines that bring them back after a reboot. It tells which of them
// are not needed: those without which nothing would go another way.
func needlessRules(h *Host) []Finding {
	var found []Finding
	written := map[*RuleLine]bool{}
	for n := range h.Rules {
		r := &h.Rules[n]
		if i := h.answersBySource(r); i != nil {
			found = append(found, ruleBySource(h, r, i, written))
		}
	}
	for n := range h.RuleLines {
		line := &h.RuleLines[n]
		i := h.holderOf(line.Src)
		if i == nil || written[line] || line.IIF != "" || line.Mark != "" {
			continue
		}
		f := seen(OK, i.Name, fmt.Sprintf("%s adds %q, which is not in force", line.where(), line.Text), showLine(line)).of(line.Owner)
		if why := needsRules(h, i, familyOf(line.Src)); why == "" {
			f.Severity = Warning
			f.Found += ": replypath sends replies by " + i.Name + " without it"
		}
		found = append(found, f)
	}
	return found
}

// ruleBySource tells of a rule whether it is needed. Replies of its interface do
// without it where replypath corrects them; what this host opens from the address never
// does, as that goes as it is routed.
func ruleBySource(h *Host, r *Rule, i *discover.Interface, written map[*RuleLine]bool) Finding {
	from, opened := orAll(r.Src), h.openedFrom(r.Src)
	uses := fmt.Sprintf("%d connections were opened from %s", opened, from)
	switch {
	case h.UsesError != "":
		uses = fmt.Sprintf("what was opened from %s cannot be told: %s", from, h.UsesError)
	case opened == 1:
		uses = "1 connection was opened from " + from
	}
	f := seen(OK, i.Name, "", listRules(r)).of(ownerOfRule(&h.Routing, r))
	switch why := needsRules(h, i, r.Family); {
	case why != "":
		f.Found = fmt.Sprintf("%s is needed: %s, and %s", r, why, uses)
	case opened > 0 || h.UsesError != "":
		f.Found = fmt.Sprintf("%s is needed: %s", r, uses)
	default:
		f.Severity = Warning
		f.Found = fmt.Sprintf("%s is not needed: replypath sends replies by %s without it, and nothing that this host opened uses %s", r, i.Name, from)
	}
	f.Found += "; " + whereWritten(&h.Routing, r, written)
	return f
}

// needsRules says why replies of an interface need rules that lead them by it, empty
// where they do not: the programs are on every managed interface, and both the one
// that replies belong to and the one that the kernel chooses without rules enforce.
func needsRules(h *Host, i *discover.Interface, family int) string {
	if !h.Attached || len(h.missingPrograms()) > 0 {
		return "replypath is not attached"
	}
	if leavesAlone(h.Config) {
		return "replypath leaves alone what the configuration excludes or does not list as protocols"
	}
	best := h.bestDefault(family)
	if best == nil || best.refuses() {
		return "no other default route has replies be built"
	}
	for _, device := range []int{i.Index, best.Device} {
		name := h.deviceName(device)
		switch {
		case name == discover.OwnDevice:
		case h.managed(device) == nil:
			return fmt.Sprintf("the default route leads by %s, which is not managed", name)
		case !h.Enforcing[device]:
			return "replypath does not enforce on " + name
		}
	}
	return ""
}

// leavesAlone tells whether the configuration has replypath serve less than usual.
func leavesAlone(c *config.Config) bool {
	unlisted := func(protocol uint8) bool { return !slices.Contains(c.Protocols, protocol) }
	return len(c.Exclude) > 0 || slices.ContainsFunc(config.Default().Protocols, unlisted)
}

// whereWritten names the lines that a rule stands on, and notes them.
func whereWritten(t *Routing, r *Rule, written map[*RuleLine]bool) string {
	var places []string
	for _, line := range t.linesOf(r) {
		written[line] = true
		places = append(places, line.where())
	}
	if len(places) == 0 {
		return "no file that was looked at brings it back"
	}
	return "it stands in " + strings.Join(places, ", ")
}

// needlessMarks finds connection marks that lead replies to a table: a rule with
// a mark whose table leaves by a managed interface, and firewall rules that bring
// the mark back from the connection.
func needlessMarks(h *Host) []Finding {
	var found []Finding
	for n := range h.Rules {
		r := &h.Rules[n]
		if r.Mark == 0 || r.Invert || r.Table == 0 || isEverybodys(r.Table) || r.Src.IsValid() || r.Dst.IsValid() || ownerOfKnown(r) != "" {
			continue
		}
		restoring := bringingBack(&h.Firewall, r)
		if len(restoring) == 0 {
			continue
		}
		for n := range h.Interfaces {
			if i := &h.Interfaces[n]; h.leavesBy(r.Family, r.Table, i.Index) {
				found = append(found, ruleByMark(h, r, i, restoring))
			}
		}
	}
	return found
}

// isEverybodys tells the tables that the kernel itself has rules for.
func isEverybodys(table int) bool {
	return table == unix.RT_TABLE_MAIN || table == unix.RT_TABLE_DEFAULT || table == unix.RT_TABLE_LOCAL
}

// ruleByMark tells of a rule by a connection's mark. It is never said not to be needed,
// as what else has the mark is not to be seen.
func ruleByMark(h *Host, r *Rule, i *discover.Interface, restoring []string) Finding {
	text := fmt.Sprintf("%s leads back by %s what has the connection mark of %s", r, i.Name, strings.Join(restoring, ", "))
	f := seen(OK, i.Name, "", listRules(r)).of(ownerOfRule(&h.Routing, r))
	if why := needsRules(h, i, r.Family); why != "" {
		text += ": replies need it, as " + why
	} else {
		f.Severity = Warning
		text += ": replypath does this work for replies, what else has the mark is not known here"
	}
	f.Found = text + "; " + whereWritten(&h.Routing, r, map[*RuleLine]bool{})
	return f
}

// rulesThatNeverMatch finds rules for an own address with an incoming interface.
// What the host sends comes in by lo, so that `ip rule add from 10.4.0.100 dev
// eth1`, where dev means iif, never matches (fib_rule_match).
func rulesThatNeverMatch(h *Host) []Finding {
	var found []Finding
	for n := range h.Rules {
		r := &h.Rules[n]
		if r.Invert || !neverMatches(&h.Links, r.Src, r.IIF) {
			continue
		}
		written := whereWritten(&h.Routing, r, map[*RuleLine]bool{})
		found = append(found, seen(Warning, r.IIF, fmt.Sprintf(
			"%s never matches: dev means iif, and what this host sends comes in by lo; %s", r, written), listRules(r)).of(ownerOfRule(&h.Routing, r)))
	}
	for n := range h.RuleLines {
		line := &h.RuleLines[n]
		if !neverMatches(&h.Links, line.Src, line.IIF) || slices.ContainsFunc(h.Rules, func(r Rule) bool { return line.adds(&r) }) {
			continue
		}
		found = append(found, seen(Warning, line.IIF, fmt.Sprintf(
			"%s adds %q, which never matches: dev means iif, and what this host sends comes in by lo", line.where(), line.Text), showLine(line)).of(line.Owner))
	}
	return found
}

// neverMatches tells the condition of an own address with that of an incoming interface.
func neverMatches(l *Links, src netip.Prefix, iif string) bool {
	return iif != "" && iif != "lo" && src.IsSingleIP() && l.isOwn(src.Addr())
}

// showLine is the command that shows a line among the others of its file.
func showLine(l *RuleLine) string { return "cat " + quote(l.File) }

// bringingBack names the chains that bring a mark that a rule selects by back from
// the connection to packets of its family. The marks that are to be seen are compared
// as the rule does, with its mask; where none is, any may be meant.
func bringingBack(f *Firewall, r *Rule) []string {
	others := "ip6"
	if r.Family == unix.AF_INET6 {
		others = "ip"
	}
	var names []string
	var marks []uint32
	for n := range f.Chains {
		c := &f.Chains[n]
		if c.Family == others {
			continue
		}
		if slices.ContainsFunc(c.Rules, func(r FirewallRule) bool { return r.Restores }) {
			names = append(names, c.String())
		}
		for _, rule := range c.Rules {
			marks = append(marks, rule.Marks...)
		}
	}
	if len(marks) > 0 && !slices.ContainsFunc(marks, r.selectsMark) {
		return nil
	}
	return names
}
