// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"replypath/test/evidence/golog"
	"replypath/test/evidence/promise"
)

var (
	runLine     = regexp.MustCompile(`^tests of commit (\S+) on Linux (\S+), (\S+)$`)
	packageLine = regexp.MustCompile(`^(?:ok|FAIL)\s+replypath/(\S+)`)
)

// run is what the logs are of.
type run struct{ Commit, Kernel, Date string }

// or takes from another one what is not known.
func (r run) or(other run) run {
	return run{cmp.Or(r.Commit, other.Commit), cmp.Or(r.Kernel, other.Kernel), cmp.Or(r.Date, other.Date)}
}

// outcome is what became of a test.
type outcome struct {
	test promise.Test
	*golog.Outcome
}

// results are what the logs say.
type results struct {
	about   run
	tests   map[promise.Test]*golog.Outcome
	order   []outcome
	kernels []kernel // the same on other kernels
}

func newResults() *results {
	return &results{tests: make(map[promise.Test]*golog.Outcome)}
}

// read reads a log of `go test -v` of any packages: the name of each stands behind its tests.
func (r *results) read(log string) {
	s := golog.NewSection()
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\r\n")
		if match := runLine.FindStringSubmatch(line); match != nil {
			r.about = r.about.or(run{match[1], match[2], match[3]})
		} else if match := packageLine.FindStringSubmatch(line); match != nil {
			r.add(match[1], s)
			s = golog.NewSection()
		} else {
			s.Read(line)
		}
	}
}

// add enters the tests of a package, which is known by then.
func (r *results) add(pkg string, s *golog.Section) {
	for _, o := range s.Order {
		test := promise.Test{Package: pkg, Name: o.Name}
		before, known := r.tests[test]
		if !known {
			r.tests[test] = o
			r.order = append(r.order, outcome{test, o})
			continue
		}
		before.Result = max(before.Result, o.Result)
		before.Lines = append(before.Lines, o.Lines...)
	}
}

// below returns what is known of a test and its subtests.
func (r *results) below(name promise.Test) (all []outcome) {
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
		result = o.Result
	}
	all := r.below(name)
	for _, o := range all {
		if o.test == name || len(r.below(o.test)) > 1 {
			continue
		}
		variants++
		if o.Result == golog.Skipped {
			skips++
		}
	}
	if result == golog.Passed && variants > 0 && skips == variants {
		result = golog.Skipped
	}
	return result, skips, variants
}

// missing names the tests that show nothing, as they failed or, unless that is to be shown, did not run.
func (r *results) missing(groups []promise.Group, partial bool) (names []string) {
	for _, g := range groups {
		for _, p := range g.Promises {
			for _, test := range p.Tests {
				switch result, _, _ := r.of(test); {
				case result == golog.Failed:
					names = append(names, fmt.Sprintf("%s (failed): %s", test, p.ID))
				case result == golog.NotRun && !partial:
					names = append(names, fmt.Sprintf("%s (did not run): %s", test, p.ID))
				}
				if on := r.elsewhere(test, golog.Failed); len(on) > 0 {
					names = append(names, fmt.Sprintf("%s (failed on %s): %s", test, versions(on), p.ID))
				}
			}
		}
	}
	return names
}
