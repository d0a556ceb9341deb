package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
	return r.Table != 0 && !r.Src.IsValid() && !r.Dst.IsValid() && !r.HasMark() &&
		r.IIF == "" && r.OIF == "" && !r.Invert && !r.Other
}

// String writes the rule as the arguments of ip rule.
func (r *Rule) String() string { return fmt.Sprintf("rule %d: %s", r.Priority, r.selectors()) }

func (r *Rule) selectors() string {
	var words []string
	if r.Invert {
		words = append(words, "not")
	}
	words = append(words, "from", OrAll(r.Src))
	if r.Dst.IsValid() {
		words = append(words, "to", OrAll(r.Dst))
	}
	if r.HasMark() {
		mark := fmt.Sprintf("%#x", r.Mark)
		if r.Mask != AllBits {
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
		words = append(words, "lookup", TableName(r.Table))
	}
	return strings.Join(words, " ")
}

// AllBits is the mask of a mark that is written without one.
const AllBits = 0xffffffff

// HasMark tells a rule that selects by a mark, also by that of none.
func (r *Rule) HasMark() bool { return r.Mark != 0 || r.Mask != 0 }

// HasMarkOf tells whether a rule selects by one of some marks with this very mask.
func (r *Rule) HasMarkOf(mask uint32, marks ...uint32) bool {
	return r.Mask == mask && slices.Contains(marks, r.Mark)
}

// SelectsMark tells whether a rule selects packets with a mark.
func (r *Rule) SelectsMark(mark uint32) bool { return mark&r.Mask == r.Mark }

// OrAll writes a single address without its length.
func OrAll(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "all"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}
