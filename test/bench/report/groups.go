// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// table is workloads of one kind beside each other, one in a column.
type table struct {
	Name      string
	Workloads []Workload
	Columns   []string
	Rows      [][]string
}

// kinds put workloads together that are read together; what is in none of them comes last.
var kinds = []struct {
	name      string
	workloads []string
}{
	{"One at a time", []string{"udp-echo-64", "udp-echo-1400", "tcp-rr", "tcp-crr"}},
	{"With cold caches", []string{"udp-echo-64-beside", "tcp-rr-beside", "tcp-crr-beside"}},
	{"IPv6", []string{"udp-echo-64-ipv6", "tcp-rr-ipv6", "tcp-crr-ipv6"}},
	{"Many flows, two cores", []string{
		"tcp-rr-1000", "tcp-rr-10000", "udp-echo-64-flows-10000", "udp-echo-64-flows-1000000", "udp-echo-64-two-cores",
	}},
	{"Programs and large data", []string{"nginx", "nginx-connect", "postgresql", "tcp-bulk", "tcp-bulk-in"}},
	{"Forwarding, floods, what the server starts", []string{"forward", "syn-flood", "origin-udp-64", "origin-tcp-rr"}},
}

// tables makes a table of each kind of which anything was measured.
func (r *Results) tables() []table {
	rest := slices.DeleteFunc(slices.Clone(r.Workloads), func(w Workload) bool { return len(w.Contenders) == 0 })
	var all []table
	add := func(name string, workloads []Workload) {
		if len(workloads) > 0 {
			all = append(all, newTable(name, workloads))
		}
	}
	for _, kind := range kinds {
		var chosen []Workload
		for _, name := range kind.workloads {
			if i := slices.IndexFunc(rest, func(w Workload) bool { return w.Name == name }); i >= 0 {
				chosen = append(chosen, rest[i])
				rest = slices.Delete(rest, i, i+1)
			}
		}
		add(kind.name, chosen)
	}
	add("Others", rest)
	return all
}

// newTable has a row for each contender, and one to compare replypath with two rules.
func newTable(name string, workloads []Workload) table {
	t := table{Name: name, Workloads: workloads}
	for _, w := range workloads {
		t.Columns = append(t.Columns, w.Name)
	}
	// The order is that of the workload with the most contenders.
	fullest := slices.SortedStableFunc(slices.Values(workloads), func(a, b Workload) int {
		return len(b.Contenders) - len(a.Contenders)
	})
	var contenders []string
	for _, w := range fullest {
		for _, c := range w.Contenders {
			if !slices.Contains(contenders, c.Name) {
				contenders = append(contenders, c.Name)
			}
		}
	}
	for _, contender := range contenders {
		t.addRow("`"+contender+"`", func(w *Workload) string { return w.cell(contender) })
	}
	for _, contender := range []string{ours, strong} {
		if slices.Contains(contenders, contender) && slices.Contains(contenders, rules) {
			t.addRow("`"+contender+"` / `"+rules+"`", func(w *Workload) string {
				if c := w.Contender(contender); c != nil {
					return orDash(ratio, c.RulesRatio)
				}
				return "-"
			})
		}
	}
	return t
}

func (t *table) addRow(label string, cell func(*Workload) string) {
	row := []string{label}
	for i := range t.Workloads {
		row = append(row, cell(&t.Workloads[i]))
	}
	t.Rows = append(t.Rows, row)
}

// cell is a contender's ratio with its noise, and the base's own figure; in parentheses where few rounds measured it.
func (w *Workload) cell(contender string) string {
	c := w.Contender(contender)
	if c == nil {
		return "-"
	}
	shown := ratio(c.Ratio)
	if contender == base {
		shown = number(c.Median) + " " + w.Unit
	}
	shown += " ±" + strings.ReplaceAll(percent(c.Noise), " ", "")
	if c.Difference == fewRounds {
		return "(" + shown + ")"
	}
	return shown
}

// part is what programs take of a workload.
type part struct{ Workload, Contender, Runs, Time, Share string }

// The figures of a part are named "workload, contender: what", and told apart by their units.
var partName = regexp.MustCompile(`^(\S+), (\S+): `)

// Parts puts the figures of each part in a row.
func (r *Results) Parts() []*part {
	var parts []*part
	for _, f := range r.Figures {
		name := partName.FindStringSubmatch(f.Name)
		if name == nil {
			continue
		}
		if len(parts) == 0 || parts[len(parts)-1].Workload != name[1] || parts[len(parts)-1].Contender != name[2] {
			parts = append(parts, &part{Workload: name[1], Contender: name[2]})
		}
		last := parts[len(parts)-1]
		switch f.Unit {
		case "runs":
			last.Runs = number(f.Value)
		case "ns":
			last.Time = number(f.Value)
		default:
			last.Share = number(f.Value)
		}
	}
	return parts
}

// OtherFigures are those that are no part.
func (r *Results) OtherFigures() []Figure {
	return slices.DeleteFunc(slices.Clone(r.Figures), func(f Figure) bool { return partName.MatchString(f.Name) })
}

// Missing says once for each reason what was not measured.
func (r *Results) Missing() []string {
	var reasons []string
	names := make(map[string][]string)
	for _, a := range r.Absent {
		if names[a.Reason] == nil {
			reasons = append(reasons, a.Reason)
		}
		names[a.Reason] = append(names[a.Reason], a.Name)
	}
	var all []string
	for _, reason := range reasons {
		all = append(all, missing(names[reason])+": "+reason)
	}
	return all
}

// mostNames is how many are worth a line; beyond them only their number is.
const mostNames = 3

// missing names what was not measured for one reason: "workload: contender", or either alone.
func missing(names []string) string {
	if len(names) <= mostNames {
		return "`" + strings.Join(names, "`, `") + "`"
	}
	var contenders []string
	for _, name := range names {
		if _, contender, paired := strings.Cut(name, ": "); paired && !slices.Contains(contenders, contender) {
			contenders = append(contenders, contender)
		}
	}
	return fmt.Sprintf("`%s` in %d workloads", strings.Join(contenders, "`, `"), len(names))
}

// span is the paths of one kind: from the quickest to the slowest.
type span struct {
	Name        string
	Paths       int
	Least, Most float64
}

// Spans puts paths together that do the same: their names have it before a colon.
func (p *programs) Spans() []*span {
	var spans []*span
	for _, c := range p.Results {
		name, _, _ := strings.Cut(c.Name, ":")
		i := slices.IndexFunc(spans, func(s *span) bool { return s.Name == name })
		if i < 0 {
			i, spans = len(spans), append(spans, &span{Name: name, Least: c.Median})
		}
		s := spans[i]
		s.Paths, s.Least, s.Most = s.Paths+1, min(s.Least, c.Median), max(s.Most, c.Median)
	}
	return spans
}

// missedAim is a path that takes longer than it aims at, by either version of IP. "" is one that does not.
type missedAim struct{ Name, IPv4, IPv6, Aim string }

// Aims is how many paths have one.
func (p *programs) Aims() (many int) {
	for _, c := range p.Results {
		if c.Aim != 0 {
			many++
		}
	}
	return many
}

// late are the paths that miss their aims on a machine that is so much slower.
func (p *programs) late() []programCase {
	return slices.DeleteFunc(slices.Clone(p.Results), func(c programCase) bool {
		return c.Aim == 0 || c.Median <= c.Aim*p.Slower()
	})
}

// Met is how many paths meet their aims.
func (p *programs) Met() int { return p.Aims() - len(p.late()) }

// Missed has those that do not, a row for both versions of IP.
func (p *programs) Missed() []*missedAim {
	var all []*missedAim
	for _, c := range p.late() {
		name := strings.NewReplacer(", ipv4", "", ", ipv6", "").Replace(c.Name)
		i := slices.IndexFunc(all, func(m *missedAim) bool { return m.Name == name })
		if i < 0 {
			i, all = len(all), append(all, &missedAim{Name: name, Aim: oneDigit(c.Aim * p.Slower())})
		}
		if strings.Contains(c.Name, ", ipv6") {
			all[i].IPv6 = oneDigit(c.Median)
		} else {
			all[i].IPv4 = oneDigit(c.Median)
		}
	}
	return all
}
