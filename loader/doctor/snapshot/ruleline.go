package snapshot

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// RuleLine is a line of a file that adds a rule when the network is set up.
type RuleLine struct {
	File string
	Line int
	Text string       // one line
	Src  netip.Prefix // not valid where it has none, or one that cannot be read
	// Family is that of a line without a source, by which it could be told: 0 where
	// it does not say, or means both.
	Family int
	IIF    string
	Mark   string // as written
	Table  string // as written
	Owner  string // who reads the file
}

// Where is the file and the line.
func (l *RuleLine) Where() string { return fmt.Sprintf("%s:%d", l.File, l.Line) }

// Adds tells whether a line adds a rule. A table may be written by a name of
// /etc/iproute2/rt_tables, so that it decides only where both are numbers.
func (l *RuleLine) Adds(r *Rule) bool {
	if l.Src.IsValid() != r.Src.IsValid() || l.Src.IsValid() && l.Src.Masked() != r.Src.Masked() {
		return false
	}
	if l.Family != 0 && l.Family != r.Family || l.IIF != r.IIF || l.markDiffers(r) {
		return false
	}
	if !l.Src.IsValid() && l.Mark == "" {
		return false // nothing to tell it by
	}
	table, err := strconv.Atoi(l.Table)
	return err != nil || table == r.Table
}

// markDiffers compares a mark with its mask: all bits of it where none is written.
func (l *RuleLine) markDiffers(r *Rule) bool {
	if l.Mark == "" {
		return r.HasMark()
	}
	text, maskText, hasMask := strings.Cut(l.Mark, "/")
	mark, err := strconv.ParseUint(text, 0, 32)
	if err != nil || uint32(mark) != r.Mark {
		return true
	}
	if !hasMask {
		return r.Mask != AllBits
	}
	mask, err := strconv.ParseUint(maskText, 0, 32)
	return err != nil || uint32(mask) != r.Mask
}
