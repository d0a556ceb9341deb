// SPDX-License-Identifier: Apache-2.0

package top

import (
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
	lines := []styledLine{{text: t.summary()}}
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
func styledLines(header []string, rows [][]string, styles []lineStyle) []styledLine {
	var page output.Page
	page.Table(header, rows)
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
	return styledLines([]string{"INTERFACE", "UP", "ATTACHED", wide("TO PKT/S"), wide("BYTE/S"),
		wide("FROM PKT/S"), wide("BYTE/S"), wide("ASYM PKT/S"), "UNCORRECTED PKT/S"}, rows, styles)
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
	return []string{t.rate(v.Packets), t.rate(v.Bytes)}
}

// asymmetry shows of the reasons those that there are.
func (t *table) asymmetry(a *top.Asymmetry) []string {
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(a.Uncorrected)) {
		if rate := a.Uncorrected[reason]; rate > 0 {
			reasons = append(reasons, reason+" "+short(rate))
		}
	}
	return []string{t.rate(a.Packets), strings.Join(reasons, ", ")}
}

func (t *table) tables() []styledLine {
	var rows [][]string
	for _, table := range t.FlowTables {
		rows = append(rows, []string{table.Name, fmt.Sprintf("%*d", rateWidth, table.Flows),
			fmt.Sprintf("%*d", rateWidth, table.Capacity)})
	}
	return styledLines([]string{"TABLE", wide("FLOWS"), wide("CAPACITY")}, rows, nil)
}

func (t *table) flows() []styledLine {
	var rows [][]string
	for _, f := range t.Busiest[t.order] {
		rows = append(rows, []string{
			t.rate(f.Rate), f.Protocol, output.Endpoint(f.Peer, f.PeerPort), output.Endpoint(f.Self, f.SelfPort),
			output.OrEmpty(f.Interface), fmt.Sprint(f.CorrectedPackets), output.Duration(f.AgeSeconds), f.State,
			output.OrEmpty(f.NextHopMAC),
		})
	}
	header := []string{wide("PKT/S"), "PROTOCOL", "PEER", "SELF", "INTERFACE", "CORRECTED", "AGE", "STATE", "NEXT HOP"}
	return styledLines(header, rows, nil)
}

// rateWidth keeps the columns where they are from one look to the next.
const rateWidth = 10

func wide(text string) string { return fmt.Sprintf("%*s", rateWidth, output.OrDash(text)) }

// rate is a dash while nothing is known of an earlier look.
func (t *table) rate(perSecond float64) string {
	if t.Seconds <= 0 {
		return wide("")
	}
	return wide(short(perSecond))
}

// short is a number with a letter for thousands, millions and so on where it
// would be too long for its column.
func short(number float64) string {
	letter := ""
	for _, larger := range []string{"k", "M", "G", "T"} {
		if number < 99999.95 { // which would be shown as 100000.0
			break
		}
		number, letter = number/1000, larger
	}
	return fmt.Sprintf("%.1f%s", number, letter)
}
