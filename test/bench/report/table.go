// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Print writes tables for a terminal.
func (r *Results) Print(w io.Writer) error {
	p := &printer{Writer: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	p.line("%s", r.Machine.Describe())
	p.line("%s", r.Method.describe())
	for i := range r.Workloads {
		p.workload(&r.Workloads[i])
	}
	p.bounds(r.Bounds)
	p.figures(r.Figures)
	for _, a := range r.Absent {
		p.line("not measured: %s: %s", a.Name, a.Reason)
	}
	if p.err != nil {
		return p.err
	}
	return p.Flush()
}

// printer keeps the first error of writing.
type printer struct {
	*tabwriter.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if _, err := fmt.Fprintf(p.Writer, format+"\n", args...); p.err == nil {
		p.err = err
	}
}

func (p *printer) row(cells ...string) { p.line("%s", strings.Join(cells, "\t")) }

func (p *printer) workload(w *Workload) {
	p.line("")
	p.line("%s (%s): %s; noise %s", w.Name, w.Unit, w.About, percent(w.Noise))
	p.row("  CONTENDER", "ROUNDS", "MEDIAN", "MIN", "MAX", "TO STATIC", "SPREAD", "NOISE", "TO 2 RULES", "DIFFERENCE")
	for _, c := range w.Contenders {
		p.row("  "+c.Name, strconv.Itoa(c.Rounds()), number(c.Median), number(c.Min), number(c.Max), ratio(c.Ratio),
			ratio(c.RatioMin)+"-"+ratio(c.RatioMax), percent(c.Noise), orDash(ratio, c.RulesRatio), c.Difference)
	}
}

func (p *printer) bounds(bounds []BoundResult) {
	measured := slices.DeleteFunc(slices.Clone(bounds), func(b BoundResult) bool { return b.Ratio == 0 })
	if len(measured) == 0 {
		return
	}
	p.line("")
	p.row("BOUND", "AT LEAST", "RATIO", "NOISE", "VERDICT")
	for _, b := range measured {
		p.row(b.Name, ratio(b.AtLeast), b.ShownRatio(), b.ShownNoise(), b.Verdict)
	}
}

func (p *printer) figures(figures []Figure) {
	if len(figures) == 0 {
		return
	}
	p.line("")
	p.row("FIGURE", "VALUE", "MIN", "MAX", "BOUND", "UNIT", "")
	for _, f := range figures {
		p.row(f.Name, number(f.Value), number(f.Min), number(f.Max), orDash(number, f.Bound), f.Unit, f.Verdict())
	}
}

func (m *Method) describe() string {
	text := fmt.Sprintf("%d rounds of all contenders", m.Rounds)
	if m.Further > 0 {
		text += fmt.Sprintf(", then %d of those that a bound compares", m.Further)
	}
	text += fmt.Sprintf("; in a round each works for %g s, in turns of %g s, after %g s of warm-up", m.Seconds, m.Turn, m.WarmUp)
	text += fmt.Sprintf("; %.0f s in all", m.Took)
	if m.Quick {
		text += ", a quick run"
	}
	if !m.Complete {
		text += ", interrupted"
	}
	return text
}

// number has three digits at least, and no more than are needed.
func number(v float64) string {
	switch {
	case v == 0 || v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
}

func ratio(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }

func percent(v float64) string { return strconv.FormatFloat(100*v, 'f', 1, 64) + " %" }

func orDash(format func(float64) string, v *float64) string {
	if v == nil {
		return "-"
	}
	return format(*v)
}
