// SPDX-License-Identifier: Apache-2.0

package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

//go:embed page.md.tmpl
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"number": number, "ratio": ratio, "percent": percent, "method": (*Method).describe,
	"numberOrDash": func(v *float64) string { return orDash(number, v) },
	"oneDigit":     oneDigit,
	"whole":        whole,
}).Parse(pageText))

// programs is the part of make bench-bpf's JSON that the page shows.
type programs struct {
	Repeat uint
	Rounds uint
	// Reference is what the first case costs on the machine that aims and bounds are from, in nanoseconds.
	Reference float64 `json:"reference_cost"`
	Results   []programCase
}

// Slower is how much longer this machine takes for what has nothing of ours, the first case; 1 where it is not known.
func (p *programs) Slower() float64 {
	if p.Reference == 0 || len(p.Results) == 0 {
		return 1
	}
	return p.Results[0].Median / p.Reference
}

// programCase is a way through a program. An aim of 0 is none.
type programCase struct {
	Name        string
	Median, Aim float64
}

// whole is a number without digits after the point, "-" for none.
func whole(v float64) string {
	if v == 0 {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func oneDigit(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// About describes contenders on the page.
type About struct{ Name, About string }

// Page writes a page in Markdown whose raw data are in a directory beside it.
func (r *Results) Page(w io.Writer, contenders []About, dir string) error {
	data := struct {
		*Results
		About    []About
		Dir      string
		Groups   []table
		Cases    *programs
		Affected []string
	}{Results: r, About: contenders, Dir: dir, Groups: r.tables(), Affected: r.Machine.mitigated()}
	if len(r.Programs) > 0 && string(r.Programs) != "null" {
		data.Cases = new(programs)
		if err := json.Unmarshal(r.Programs, data.Cases); err != nil {
			return fmt.Errorf("read the results of make bench-bpf: %w", err)
		}
	}
	if err := page.Execute(w, data); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// mitigated lists the vulnerabilities that the CPU has.
func (m *Machine) mitigated() []string {
	var list []string
	for name, state := range m.Mitigations {
		if !strings.HasPrefix(state, "Not affected") {
			list = append(list, name+": "+state)
		}
	}
	slices.Sort(list)
	return list
}
