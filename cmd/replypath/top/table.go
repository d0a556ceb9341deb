// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
	"replypath/loader/top"
)

// table writes a look for people.
type table struct {
	*top.Look
	order flows.Order
	width int // of a line
}

// styledLine is a line of it.
type styledLine struct {
	text  string
	style lineStyle
}

// lineStyle is what a line is, for whoever can show it in colours.
type lineStyle int

const (
	plainLine lineStyle = iota
	headerLine
	warningLine // something is not corrected
	errorLine   // nothing is attached
)

func (t *table) lines() []styledLine {
	var lines []styledLine
	for _, line := range output.Wrap(t.summary(), output.ProseWidth(t.width)) {
		lines = append(lines, styledLine{text: line})
	}
	for _, section := range []func() []styledLine{t.interfaces, t.tables, t.flows} {
		lines = append(append(lines, styledLine{}), section()...)
	}
	return lines
}

func (t *table) summary() string {
	attached := slices.ContainsFunc(t.Interfaces, func(i top.Interface) bool { return i.Attached })
	text := fmt.Sprintf("%s  mode %s  daemon %s", t.Time.Local().Format("15:04:05"), t.Mode, output.Daemon(&t.Daemon, attached))
	if t.Seconds > 0 {
		text += fmt.Sprintf("  rates over %.1fs", t.Seconds)
	}
	return text
}

// styledLines aligns rows below a header; styles has that of each row, or nothing.
func (t *table) styledLines(columns []output.Column, rows [][]string, styles []lineStyle) []styledLine {
	var page output.Page
	page.FittedTable(columns, rows, t.width)
	var lines []styledLine
	for line := range strings.Lines(page.String()) {
		lines = append(lines, styledLine{text: strings.TrimRight(line, " \n")})
	}
	lines[0].style = headerLine
	for i, style := range styles {
		lines[1+i].style = style
	}
	return lines
}

const uncorrectedColumn = "UNCORRECTED"

func (t *table) interfaces() []styledLine {
	var (
		rows   [][]string
		styles []lineStyle
	)
	for i := range t.Interfaces {
		row := &t.Interfaces[i]
		attached := output.YesNo(row.Attached)
		if row.Mechanism != nil {
			attached = *row.Mechanism
		}
		rows = append(rows, slices.Concat([]string{row.Name, output.YesNo(row.Up), attached},
			t.volume(&row.To), t.volume(&row.From), t.asymmetry(&row.Asymmetry)))
		styles = append(styles, styleOf(row))
	}
	rows = append(rows, slices.Concat([]string{"total", "", ""},
		t.volume(&t.Total.Corrected), []string{wide(""), wide("")}, t.asymmetry(&t.Total.Asymmetry)))
	return t.styledLines([]output.Column{
		{Name: "INTERFACE"}, {Name: "UP", Rank: 3}, {Name: "ATTACHED", Rank: 4},
		{Name: wide("CORRECTED")}, {Name: wide("BYTES"), Rank: 2}, {Name: wide("FROM"), Rank: 6}, {Name: wide("BYTES"), Rank: 7},
		{Name: wide("ASYM"), Rank: 5}, {Name: uncorrectedColumn}, {Name: "REASONS", Rank: 1},
	}, rows, styles)
}

func styleOf(i *top.Interface) lineStyle {
	if !i.Attached || !i.Up {
		return errorLine
	}
	for _, rate := range i.Uncorrected {
		if rate > 0 {
			return warningLine
		}
	}
	return plainLine
}

func (t *table) volume(v *top.Volume) []string {
	return []string{t.rate(v.Packets, unitPackets), t.rate(v.Bytes, unitBytes)}
}

// asymmetry shows how much was not corrected, and of the reasons those that there are.
func (t *table) asymmetry(a *top.Asymmetry) []string {
	uncorrected := 0.0
	for _, rate := range a.Uncorrected {
		uncorrected += rate
	}
	return []string{
		t.rate(a.Packets, unitPackets),
		fmt.Sprintf("%*s", len(uncorrectedColumn), t.rate(uncorrected, unitPackets)),
		listed(a.Uncorrected, max(reasonsWidth, t.width-widthBesideReasons)),
	}
}

const (
	// reasonsWidth is about as much as there is room for on the narrowest screens.
	reasonsWidth = 25
	// widthBesideReasons is what the other columns take where none has gone.
	widthBesideReasons = 105
)

// listed names reasons with their rates, the most frequent first: one, and the others
// for which there is room.
func listed(rates map[string]float64, room int) string {
	reasons := slices.SortedFunc(maps.Keys(rates), func(a, b string) int {
		return cmp.Or(cmp.Compare(rates[b], rates[a]), cmp.Compare(a, b))
	})
	text := ""
	for _, reason := range reasons {
		if rates[reason] == 0 {
			break
		}
		part := reason + " " + si(rates[reason], unitPackets)
		switch {
		case text == "":
			text = part
		case len(text)+len(", ")+len(part) > room:
			return text + ", ..."
		default:
			text += ", " + part
		}
	}
	return text
}

func (t *table) tables() []styledLine {
	var rows [][]string
	for _, table := range t.FlowTables {
		rows = append(rows, []string{table.Name, wide(fmt.Sprint(table.Flows)), wide(fmt.Sprint(table.Capacity))})
	}
	return t.styledLines([]output.Column{{Name: "TABLE"}, {Name: wide("FLOWS")}, {Name: wide("CAPACITY")}}, rows, nil)
}

func (t *table) flows() []styledLine {
	var rows [][]string
	for _, f := range t.Busiest[t.order] {
		rows = append(rows, []string{
			t.rate(f.Rate, unitPackets), f.Protocol, output.Endpoint(f.Peer, f.PeerPort), output.Endpoint(f.Self, f.SelfPort),
			output.OrEmpty(f.Interface), fmt.Sprint(f.CorrectedPackets), output.Duration(f.AgeSeconds), f.State,
			output.OrEmpty(f.NextHopMAC),
		})
	}
	return t.styledLines([]output.Column{
		{Name: wide("RATE"), Rank: 1}, {Name: "PROTOCOL", Rank: 4}, {Name: "PEER"}, {Name: "SELF", Rank: 2}, {Name: "INTERFACE", Rank: 3},
		{Name: "CORRECTED"}, {Name: "AGE", Rank: 5}, {Name: "STATE", Rank: 6}, {Name: "NEXT HOP", Rank: 7},
	}, rows, nil)
}

// Units of rates.
const (
	unitPackets = "pps"
	unitBytes   = "B/s"
)

// rateWidth keeps the columns where they are from one look to the next.
const rateWidth = len("999.9 k" + unitPackets)

func wide(text string) string { return fmt.Sprintf("%*s", rateWidth, output.OrDash(text)) }

// rate is a dash while nothing is known of an earlier look.
func (t *table) rate(perSecond float64, unit string) string {
	if t.Seconds <= 0 {
		return wide("")
	}
	return wide(si(perSecond, unit))
}

// si is a number with its unit, and with the prefix that leaves at most three digits
// before the point.
func si(number float64, unit string) string {
	prefix := ""
	for _, larger := range []string{"k", "M", "G", "T"} {
		if number < 999.95 { // which would be shown as 1000.0
			break
		}
		number, prefix = number/1000, larger
	}
	return fmt.Sprintf("%.1f %s%s", number, prefix, unit)
}
