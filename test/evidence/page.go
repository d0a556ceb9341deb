// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"replypath/test/documents"
	"replypath/test/evidence/golog"
	"replypath/test/evidence/promise"
)

//go:embed page.md.tmpl
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

//go:embed summary.md.tmpl
var summaryText string

var summary = template.Must(template.New("summary").Funcs(template.FuncMap{"slug": documents.Slug, "tests": listTests}).Parse(summaryText))

// summarize makes the page that is committed: of each group the first promise. It says nothing of a run.
func summarize(groups []promise.Group) (string, error) {
	var text strings.Builder
	if err := summary.Execute(&text, groups); err != nil {
		return "", fmt.Errorf("make summary: %w", err)
	}
	return text.String(), nil
}

// listTests are those of a promise, with their packages.
func listTests(p promise.Promise) string {
	var tests []string
	for i, test := range p.Tests {
		name := "`" + test.Name + "`"
		if i == 0 || p.Tests[i-1].Package != test.Package {
			name = test.Package + ": " + name
		}
		tests = append(tests, name)
	}
	return strings.Join(tests, below)
}

// row is one promise; its tests stand below each other.
type row struct{ Promise, Tests, Printed, Results string }

// section of the page.
type pageSection struct {
	Title, About string
	Rows         []row
}

// render makes the page.
func render(groups []promise.Group, r *results, about run) (string, error) {
	data := struct {
		run
		Promises, Tests int
		Sections        []pageSection
	}{run: about}
	data.Kernel = kernelVersion.FindString(about.Kernel)
	tests := make(map[promise.Test]bool)
	for _, g := range groups {
		s := pageSection{Title: g.Title, About: g.About}
		for _, p := range g.Promises {
			s.Rows = append(s.Rows, r.row(&p))
			for _, test := range p.Tests {
				tests[test] = true
			}
		}
		data.Promises += len(s.Rows)
		data.Sections = append(data.Sections, s)
	}
	data.Tests = len(tests)
	var text strings.Builder
	if err := page.Execute(&text, data); err != nil {
		return "", fmt.Errorf("make page: %w", err)
	}
	if about.Kernel == "" {
		return text.String(), nil
	}
	return strings.ReplaceAll(text.String(), about.Kernel, data.Kernel), nil
}

// below separates what stands below each other in a cell.
const below = "<br>"

func (r *results) row(p *promise.Promise) row {
	var printed, ended []string
	tests := listTests(*p)
	for _, test := range p.Tests {
		result, figures := r.show(test, p)
		ended = append(ended, result)
		if figures != "" && len(p.Tests) > 1 {
			figures = "`" + test.Name + "`: " + figures
		}
		if figures != "" {
			printed = append(printed, figures)
		}
	}
	if p.Needs != "" {
		tests += below + "only `make test-all`: needs " + p.Needs
	}
	if len(printed) == 0 {
		printed = []string{"-"}
	}
	if all := slices.Compact(slices.Clone(ended)); len(all) == 1 {
		ended = all
	}
	return row{
		Promise: fmt.Sprintf(`<a id="%s"></a>%s`, p.ID, p.Promise), Tests: tests,
		Printed: strings.Join(printed, below), Results: strings.Join(ended, below),
	}
}

// show tells of a test what became of it, and what it printed, "" for nothing.
func (r *results) show(test promise.Test, p *promise.Promise) (result, printed string) {
	switch ended, skips, variants := r.of(test); {
	case ended == golog.NotRun:
		return "not run", ""
	case ended == golog.Skipped && len(r.elsewhere(test, golog.Passed)) > 0:
		on := r.elsewhere(test, golog.Passed)
		return "passed on " + versions(on), escapes.Replace(on[len(on)-1].figuresOf(test, p.Shown))
	case ended == golog.Skipped:
		return "skipped", escapes.Replace(r.skipReason(test))
	case skips > 0:
		return fmt.Sprintf("passed, %d of %d variants skipped", skips, variants), escapes.Replace(r.figuresOf(test, p.Shown))
	default:
		return "passed", escapes.Replace(r.figuresOf(test, p.Shown))
	}
}

// kernelVersion leaves out what a machine's vendor adds to it.
var kernelVersion = regexp.MustCompile(`^[\d.]*\d`)

// escapes are for a text in a table.
var escapes = strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "\t", " ")
