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

// Rule is a rule of policy routing. What is not valid, 0 or empty is no condition.
type Rule struct {
	Family, Priority, Table int
	Src, Dst                netip.Prefix
	Mark, Mask              uint32
	IIF, OIF                string
	Invert                  bool
	Other                   bool   // it has conditions beside these: ports, protocol, user, TOS, a VRF
	Refuses                 string // "blackhole", ...: it leads to no table
	Protocol                int    // of who made it: unix.RTPROT_*
	// SuppressesDefault: default routes of its table count for nothing.
	SuppressesDefault bool
}

// isUnconditional tells a rule that every packet follows.
func (r *Rule) isUnconditional() bool {
	return r.Table != 0 && !r.Src.IsValid() && !r.Dst.IsValid() && !r.hasMark() &&
		r.IIF == "" && r.OIF == "" && !r.Invert && !r.Other
}

// String writes the rule as the arguments of ip rule.
func (r *Rule) String() string { return fmt.Sprintf("rule %d: %s", r.Priority, r.selectors()) }

func (r *Rule) selectors() string {
	var words []string
	if r.Invert {
		words = append(words, "not")
	}
	words = append(words, "from", orAll(r.Src))
	if r.Dst.IsValid() {
		words = append(words, "to", orAll(r.Dst))
	}
	if r.hasMark() {
		mark := fmt.Sprintf("%#x", r.Mark)
		if r.Mask != allBits {
			mark += fmt.Sprintf("/%#x", r.Mask)
		}
		words = append(words, "fwmark", mark)
	}
	if r.IIF != "" {
		words = append(words, "iif", r.IIF)
	}
	if r.OIF != "" {
		words = append(words, "oif", r.OIF)
	}
	switch {
	case r.Refuses != "":
		words = append(words, r.Refuses)
	case r.Table != 0:
		words = append(words, "lookup", tableName(r.Table))
	}
	return strings.Join(words, " ")
}

// list is the command that shows it among the others.
func (r *Rule) list() string { return "ip " + familyFlag(r.Family) + "rule show" }

// allBits is the mask of a mark that is written without one.
const allBits = 0xffffffff

// hasMark tells a rule that selects by a mark, also by that of none.
func (r *Rule) hasMark() bool { return r.Mark != 0 || r.Mask != 0 }

// hasMarkOf tells whether a rule selects by one of some marks with this very mask.
func (r *Rule) hasMarkOf(mask uint32, marks ...uint32) bool {
	return r.Mask == mask && slices.Contains(marks, r.Mark)
}

// selectsMark tells whether a rule selects packets with a mark.
func (r *Rule) selectsMark(mark uint32) bool { return mark&r.Mask == r.Mark }

// orAll writes a single address without its length.
func orAll(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "all"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

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
			found = append(found, h.ruleBySource(r, i, written))
		}
	}
	for n := range h.RuleLines {
		line := &h.RuleLines[n]
		i := h.holderOf(line.Src)
		if i == nil || written[line] || line.IIF != "" || line.Mark != "" {
			continue
		}
		f := seen(OK, i.Name, fmt.Sprintf("%s adds %q, which is not in force", line.where(), line.Text), line.show()).of(line.Owner)
		if why := h.needsRules(i, familyOf(line.Src)); why == "" {
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
func (h *Host) ruleBySource(r *Rule, i *discover.Interface, written map[*RuleLine]bool) Finding {
	from, opened := orAll(r.Src), h.openedFrom(r.Src)
	uses := fmt.Sprintf("%d connections were opened from %s", opened, from)
	switch {
	case h.UsesError != "":
		uses = fmt.Sprintf("what was opened from %s cannot be told: %s", from, h.UsesError)
	case opened == 1:
		uses = "1 connection was opened from " + from
	}
	f := seen(OK, i.Name, "", r.list()).of(h.ownerOfRule(r))
	switch why := h.needsRules(i, r.Family); {
	case why != "":
		f.Found = fmt.Sprintf("%s is needed: %s, and %s", r, why, uses)
	case opened > 0 || h.UsesError != "":
		f.Found = fmt.Sprintf("%s is needed: %s", r, uses)
	default:
		f.Severity = Warning
		f.Found = fmt.Sprintf("%s is not needed: replypath sends replies by %s without it, and nothing that this host opened uses %s", r, i.Name, from)
	}
	f.Found += "; " + h.whereWritten(r, written)
	return f
}

// needsRules says why replies of an interface need rules that lead them by it, empty
// where they do not: the programs are on every managed interface, and both the one
// that replies belong to and the one that the kernel chooses without rules enforce.
func (h *Host) needsRules(i *discover.Interface, family int) string {
	if !h.Attached || len(missingPrograms(h)) > 0 {
		return "replypath is not attached"
	}
	if h.leavesAlone() {
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
func (h *Host) leavesAlone() bool {
	unlisted := func(protocol uint8) bool { return !slices.Contains(h.Config.Protocols, protocol) }
	return len(h.Config.Exclude) > 0 || slices.ContainsFunc(config.Default().Protocols, unlisted)
}

// whereWritten names the lines that a rule stands on, and notes them.
func (h *Host) whereWritten(r *Rule, written map[*RuleLine]bool) string {
	var places []string
	for n := range h.RuleLines {
		if line := &h.RuleLines[n]; line.adds(r) {
			written[line] = true
			places = append(places, line.where())
		}
	}
	if len(places) == 0 {
		return "no file that was looked at brings it back"
	}
	return "it stands in " + strings.Join(places, ", ")
}

// answersBySource returns the managed interface that a rule is for, nil where it
// does something else.
func (h *Host) answersBySource(r *Rule) *discover.Interface {
	if r.Table == 0 || r.Dst.IsValid() || r.hasMark() || r.IIF != "" || r.OIF != "" || r.Invert || r.Other {
		return nil
	}
	i := h.holderOf(r.Src)
	if i == nil || !h.leavesBy(r.Family, r.Table, i.Index) {
		return nil
	}
	return i
}

// holderOf returns the managed interface that a source is of: one of its
// addresses, or its network.
func (h *Host) holderOf(src netip.Prefix) *discover.Interface {
	if !src.IsValid() {
		return nil
	}
	for n := range h.Interfaces {
		i := &h.Interfaces[n]
		for _, p := range i.Addresses {
			if src.IsSingleIP() && src.Addr() == p.Addr() || !src.IsSingleIP() && src.Masked() == p.Masked() {
				return i
			}
		}
	}
	return nil
}

// leavesBy tells whether the default route of a table leaves by an interface.
func (h *Host) leavesBy(family, table, device int) bool {
	for _, r := range h.Routes {
		if r.Family == family && r.Table == table && r.isUnicast() && isDefault(r.Dst) && r.Device == device {
			return true
		}
	}
	return false
}

// needlessMarks finds connection marks that lead replies to a table: a rule with
// a mark whose table leaves by a managed interface, and firewall rules that bring
// the mark back from the connection.
func needlessMarks(h *Host) []Finding {
	var found []Finding
	for n := range h.Rules {
		r := &h.Rules[n]
		if r.Mark == 0 || r.Invert || r.Table == 0 || isEverybodys(r.Table) || r.Src.IsValid() || r.Dst.IsValid() || isKnown(r) {
			continue
		}
		restoring := h.Firewall.bringingBack(r)
		if len(restoring) == 0 {
			continue
		}
		for n := range h.Interfaces {
			if i := &h.Interfaces[n]; h.leavesBy(r.Family, r.Table, i.Index) {
				found = append(found, h.ruleByMark(r, i, restoring))
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
func (h *Host) ruleByMark(r *Rule, i *discover.Interface, restoring []string) Finding {
	text := fmt.Sprintf("%s leads back by %s what has the connection mark of %s", r, i.Name, strings.Join(restoring, ", "))
	f := seen(OK, i.Name, "", r.list()).of(h.ownerOfRule(r))
	if why := h.needsRules(i, r.Family); why != "" {
		text += ": replies need it, as " + why
	} else {
		f.Severity = Warning
		text += ": replypath does this work for replies, what else has the mark is not known here"
	}
	f.Found = text + "; " + h.whereWritten(r, map[*RuleLine]bool{})
	return f
}

// rulesThatNeverMatch finds rules for an own address with an incoming interface.
// What the host sends comes in by lo, so that `ip rule add from 10.4.0.100 dev
// eth1`, where dev means iif, never matches (fib_rule_match).
func rulesThatNeverMatch(h *Host) []Finding {
	var found []Finding
	for n := range h.Rules {
		r := &h.Rules[n]
		if r.IIF == "" || r.IIF == "lo" || r.Invert || !r.Src.IsSingleIP() || !h.isOwn(r.Src.Addr()) {
			continue
		}
		written := h.whereWritten(r, map[*RuleLine]bool{})
		found = append(found, seen(Warning, r.IIF, fmt.Sprintf(
			"%s never matches: dev means iif, and what this host sends comes in by lo; %s", r, written), r.list()).of(h.ownerOfRule(r)))
	}
	for _, line := range h.RuleLines {
		if line.IIF == "" || line.IIF == "lo" || !line.Src.IsValid() || !line.Src.IsSingleIP() || !h.isOwn(line.Src.Addr()) {
			continue
		}
		if h.isInForce(&line) {
			continue
		}
		found = append(found, seen(Warning, line.IIF, fmt.Sprintf(
			"%s adds %q, which never matches: dev means iif, and what this host sends comes in by lo", line.where(), line.Text), line.show()).of(line.Owner))
	}
	return found
}

func (h *Host) isInForce(line *RuleLine) bool {
	for n := range h.Rules {
		if line.adds(&h.Rules[n]) {
			return true
		}
	}
	return false
}

// familyOf is that of a prefix.
func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
