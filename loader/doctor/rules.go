package doctor

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

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
}

// isUnconditional tells a rule that every packet follows.
func (r *Rule) isUnconditional() bool {
	return r.Table != 0 && !r.Src.IsValid() && !r.Dst.IsValid() && r.Mark == 0 && r.Mask == 0 &&
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
	if r.Mark != 0 || r.Mask != 0 {
		mark := fmt.Sprintf("%#x", r.Mark)
		if r.Mask != 0xffffffff {
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

// delete is the command that removes the rule.
func (r *Rule) delete() string {
	return fmt.Sprintf("ip %srule del priority %d %s", familyFlag(r.Family), r.Priority, r.selectors())
}

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
// type them, and the lines that bring them back after a reboot.
func needlessRules(h *Host) []Finding {
	var found []Finding
	written := map[*RuleLine]bool{}
	for n := range h.Rules {
		r := &h.Rules[n]
		i := h.answersBySource(r)
		if i == nil {
			continue
		}
		found = append(found, problem(Warning, i.Name,
			r.String()+": replypath does this work for replies without a rule, and "+h.whereWritten(r, written), r.delete()))
	}
	for n := range h.RuleLines {
		line := &h.RuleLines[n]
		if i := h.holderOf(line.Src); i != nil && !written[line] && line.IIF == "" && line.Mark == "" {
			found = append(found, problem(Warning, i.Name,
				fmt.Sprintf("%s adds %q, which is not in force: replypath does this work without it", line.where(), line.Text), line.remove()))
		}
	}
	return found
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
	if r.Table == 0 || r.Dst.IsValid() || r.Mark != 0 || r.IIF != "" || r.OIF != "" || r.Invert || r.Other {
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
		if r.Mark == 0 || r.Invert || r.Table == 0 || r.Src.IsValid() || r.Dst.IsValid() {
			continue
		}
		restoring := h.Firewall.restoringMarks(r.Family)
		if len(restoring) == 0 {
			continue
		}
		for _, i := range h.Interfaces {
			if h.leavesBy(r.Family, r.Table, i.Index) {
				written := h.whereWritten(r, map[*RuleLine]bool{})
				found = append(found, problem(Warning, i.Name, fmt.Sprintf(
					"%s, with the connection mark of %s: replypath does this work for replies without a mark, and %s",
					r, strings.Join(restoring, ", "), written), r.delete()))
			}
		}
	}
	return found
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
		found = append(found, problem(Warning, r.IIF, fmt.Sprintf(
			"%s never matches: dev means iif, and what this host sends comes in by lo; %s", r, written), r.delete()))
	}
	for _, line := range h.RuleLines {
		if line.IIF == "" || line.IIF == "lo" || !line.Src.IsValid() || !line.Src.IsSingleIP() || !h.isOwn(line.Src.Addr()) {
			continue
		}
		if h.isInForce(&line) {
			continue
		}
		found = append(found, problem(Warning, line.IIF, fmt.Sprintf(
			"%s adds %q, which never matches: dev means iif, and what this host sends comes in by lo", line.where(), line.Text), line.remove()))
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
