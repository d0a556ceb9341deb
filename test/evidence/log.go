// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"replypath/test/evidence/promise"
	"replypath/test/short"
)

// Results of a test, the one that counts first last: where a test ran twice, a failure is never hidden.
const (
	notRun = iota
	skipped
	passed
	failed // also what never came to its end
)

var (
	runLine     = regexp.MustCompile(`^tests of commit (\S+) on Linux (\S+), (\S+)$`)
	begunLine   = regexp.MustCompile(`^=== RUN +(\S+)`)
	ofTestLine  = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S*)`)
	loggedLine  = regexp.MustCompile(`^    (\w+\.go):\d+: (.*)`)
	endLine     = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+)`)
	packageLine = regexp.MustCompile(`^(?:ok|FAIL)\s+replypath/(\S+)`)
	endings     = map[string]int{"PASS": passed, "SKIP": skipped, "FAIL": failed}
)

// generalSource logs how much was asked and answered, which every test does (test/traffic/figures.go).
const generalSource = "figures.go"

// run is what the logs are of.
type run struct{ Commit, Kernel, Date string }

// or takes from another one what is not known.
func (r run) or(other run) run {
	return run{cmp.Or(r.Commit, other.Commit), cmp.Or(r.Kernel, other.Kernel), cmp.Or(r.Date, other.Date)}
}

// outcome is what became of a test.
type outcome struct {
	test   promise.Test
	result int
	logged []logged
}

// logged is a line of what a test has logged.
type logged struct {
	test, text string
	general    bool
	further    bool // belongs to the one above it
}

// results are what the logs say.
type results struct {
	about   run
	tests   map[promise.Test]*outcome
	order   []*outcome
	kernels []kernel // the same on other kernels
}

func newResults() *results {
	return &results{tests: make(map[promise.Test]*outcome)}
}

// section are the tests of one package: its name stands behind them.
type section struct {
	tests   map[string]*outcome
	order   []*outcome
	current string   // test that logs
	last    *outcome // whose line was the last one, nil where it was no logged one
}

func newSection() *section { return &section{tests: make(map[string]*outcome)} }

func (s *section) of(name string) *outcome {
	o, known := s.tests[name]
	if !known {
		o = &outcome{test: promise.Test{Name: name}}
		s.tests[name] = o
		s.order = append(s.order, o)
	}
	return o
}

// read reads a log of `go test -v` of any packages.
func (r *results) read(log string) {
	s := newSection()
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\r\n")
		if match := runLine.FindStringSubmatch(line); match != nil {
			r.about = r.about.or(run{match[1], match[2], match[3]})
		} else if match := packageLine.FindStringSubmatch(line); match != nil {
			r.add(match[1], s)
			s = newSection()
		} else {
			s.line(line)
		}
	}
}

// furtherLine is how a line begins that belongs to the logged one above it.
const furtherLine = "        "

func (s *section) line(line string) {
	if text, further := strings.CutPrefix(line, furtherLine); further && s.last != nil {
		s.last.logged = append(s.last.logged, logged{s.last.test.Name, strings.TrimSpace(text), false, true})
		return
	}
	s.last = nil
	if match := begunLine.FindStringSubmatch(line); match != nil {
		s.of(match[1]).result = failed // until it has ended otherwise
	}
	if match := ofTestLine.FindStringSubmatch(line); match != nil {
		s.current = match[1]
	} else if match := endLine.FindStringSubmatch(line); match != nil {
		s.of(match[2]).result = endings[match[1]]
	} else if match := loggedLine.FindStringSubmatch(line); match != nil && s.current != "" {
		s.log(s.current, match[1], match[2])
	}
}

func (s *section) log(test, source, text string) {
	if text == short.Reason {
		return // which is about the run
	}
	s.last = s.of(test)
	s.last.logged = append(s.last.logged, logged{test, text, source == generalSource, false})
}

// add enters the tests of a package, which is known by then.
func (r *results) add(pkg string, s *section) {
	for _, o := range s.order {
		o.test.Package = pkg
		before, known := r.tests[o.test]
		if !known {
			r.tests[o.test] = o
			r.order = append(r.order, o)
			continue
		}
		before.result = max(before.result, o.result)
		before.logged = append(before.logged, o.logged...)
	}
}

// below returns what is known of a test and its subtests.
func (r *results) below(name promise.Test) (all []*outcome) {
	for _, o := range r.order {
		if o.test == name || o.test.Package == name.Package && strings.HasPrefix(o.test.Name, name.Name+"/") {
			all = append(all, o)
		}
	}
	return all
}

// of returns what became of a test, and how many of its subtests that have none themselves were skipped.
func (r *results) of(name promise.Test) (result, skips, variants int) {
	if o, known := r.tests[name]; known {
		result = o.result
	}
	all := r.below(name)
	for _, o := range all {
		if o.test == name || len(r.below(o.test)) > 1 {
			continue
		}
		variants++
		if o.result == skipped {
			skips++
		}
	}
	if result == passed && variants > 0 && skips == variants {
		result = skipped
	}
	return result, skips, variants
}

// missing names the tests that show nothing, as they failed or, unless that is to be shown, did not run.
func (r *results) missing(groups []promise.Group, partial bool) (names []string) {
	for _, g := range groups {
		for _, p := range g.Promises {
			for _, test := range p.Tests {
				switch result, _, _ := r.of(test); {
				case result == failed:
					names = append(names, fmt.Sprintf("%s (failed): %s", test, p.ID))
				case result == notRun && !partial:
					names = append(names, fmt.Sprintf("%s (did not run): %s", test, p.ID))
				}
				if on := r.elsewhere(test, failed); len(on) > 0 {
					names = append(names, fmt.Sprintf("%s (failed on %s): %s", test, versions(on), p.ID))
				}
			}
		}
	}
	return names
}
