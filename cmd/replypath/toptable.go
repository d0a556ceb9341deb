package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"replypath/loader/flows"
	"replypath/loader/top"
)

// topTable writes a look for people.
type topTable struct {
	*top.Look
	order flows.Order
}

// topLine is a line of it.
type topLine struct {
	text  string
	style topStyle
}

// topStyle is what a line is, for whoever can show it in colours.
type topStyle int

const (
	topPlain topStyle = iota
	topHeader
	topWarning // something is not corrected
	topError   // nothing is attached
)

func (t *topTable) lines() []topLine {
	lines := []topLine{{text: t.summary()}}
	for _, section := range []func() []topLine{t.interfaces, t.tables, t.flows} {
		lines = append(append(lines, topLine{}), section()...)
	}
	return lines
}

func (t *topTable) summary() string {
	attached := slices.ContainsFunc(t.Interfaces, func(i top.Interface) bool { return i.Attached })
	text := fmt.Sprintf("%s  mode %s  daemon %s", t.Time.Local().Format("15:04:05"), t.Mode, daemonText(&t.Daemon, attached))
	if t.Seconds > 0 {
		text += fmt.Sprintf("  rates over %.1fs", t.Seconds)
	}
	return text
}

// topLines aligns rows below a header; styles has that of each row, or nothing.
func topLines(header []string, rows [][]string, styles []topStyle) []topLine {
	var text bytes.Buffer
	_ = writeTable(&text, header, rows) // a buffer takes everything
	var lines []topLine
	for line := range strings.Lines(text.String()) {
		lines = append(lines, topLine{text: strings.TrimRight(line, " \n")})
	}
	lines[0].style = topHeader
	for i, style := range styles {
		lines[1+i].style = style
	}
	return lines
}

func (t *topTable) interfaces() []topLine {
	var (
		rows   [][]string
		styles []topStyle
	)
	for i := range t.Interfaces {
		row := &t.Interfaces[i]
		attached := yesNo(row.Attached)
		if row.Mechanism != nil {
			attached = *row.Mechanism
		}
		rows = append(rows, slices.Concat([]string{row.Name, yesNo(row.Up), attached},
			t.volume(&row.To), t.volume(&row.From), t.asymmetry(&row.Asymmetry)))
		styles = append(styles, topStyleOf(row))
	}
	rows = append(rows, slices.Concat([]string{"total", "", ""},
		t.volume(&t.Total.Corrected), []string{wide(""), wide("")}, t.asymmetry(&t.Total.Asymmetry)))
	return topLines([]string{"INTERFACE", "UP", "ATTACHED", wide("TO PKT/S"), wide("BYTE/S"),
		wide("FROM PKT/S"), wide("BYTE/S"), wide("ASYM PKT/S"), "UNCORRECTED PKT/S"}, rows, styles)
}

func topStyleOf(i *top.Interface) topStyle {
	if !i.Attached || !i.Up {
		return topError
	}
	for _, rate := range i.Uncorrected {
		if rate > 0 {
			return topWarning
		}
	}
	return topPlain
}

func (t *topTable) volume(v *top.Volume) []string {
	return []string{t.rate(v.Packets), t.rate(v.Bytes)}
}

// asymmetry shows of the reasons those that there are.
func (t *topTable) asymmetry(a *top.Asymmetry) []string {
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(a.Uncorrected)) {
		if rate := a.Uncorrected[reason]; rate > 0 {
			reasons = append(reasons, reason+" "+short(rate))
		}
	}
	return []string{t.rate(a.Packets), strings.Join(reasons, ", ")}
}

func (t *topTable) tables() []topLine {
	var rows [][]string
	for _, table := range t.FlowTables {
		rows = append(rows, []string{table.Name, fmt.Sprintf("%*d", rateWidth, table.Flows),
			fmt.Sprintf("%*d", rateWidth, table.Capacity)})
	}
	return topLines([]string{"TABLE", wide("FLOWS"), wide("CAPACITY")}, rows, nil)
}

func (t *topTable) flows() []topLine {
	var rows [][]string
	for _, f := range t.Busiest[t.order] {
		rows = append(rows, []string{t.rate(f.Rate), f.Protocol, endpoint(f.Peer, f.PeerPort), endpoint(f.Self, f.SelfPort),
			orEmpty(f.Interface), fmt.Sprint(f.CorrectedPackets), duration(f.AgeSeconds), f.State, orEmpty(f.NextHopMAC)})
	}
	header := []string{wide("PKT/S"), "PROTOCOL", "PEER", "SELF", "INTERFACE", "CORRECTED", "AGE", "STATE", "NEXT HOP"}
	return topLines(header, rows, nil)
}

// rateWidth keeps the columns where they are from one look to the next.
const rateWidth = 10

func wide(text string) string { return fmt.Sprintf("%*s", rateWidth, orDash(text)) }

// rate is a dash while nothing is known of an earlier look.
func (t *topTable) rate(perSecond float64) string {
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
