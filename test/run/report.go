// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is what `go test -json` says of a test or, where there is no test, of a package (cmd/test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of what did not compile
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// report collects what becomes of the tests. Its methods may be called side by side.
type report struct {
	out   io.Writer
	logs  string
	quick bool
	began time.Time

	mu       sync.Mutex
	packages map[string]*tested
	skips    []string // a line each
	counts   map[string]int
}

// tested are the tests of a package.
type tested struct {
	log    *os.File
	tests  map[string]*test
	output []string // of the package itself
	failed bool
}

// test is a test or subtest.
type test struct {
	result   string // pass, fail or skip, "" until it has ended
	children bool
	output   []string
}

func newReport(out io.Writer, logs string, quick bool) *report {
	return &report{
		out: out, logs: logs, quick: quick, began: time.Now(),
		packages: make(map[string]*tested), counts: make(map[string]int),
	}
}

// take notes an event.
func (r *report) take(e *event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.ImportPath != "" { // what a compiler says
		fmt.Fprint(r.out, e.Output)
		return nil
	}
	p := r.packages[e.Package]
	if p == nil {
		log, err := os.Create(filepath.Join(r.logs, r.logName(e.Package)))
		if err != nil {
			return fmt.Errorf("keep what tests print: %w", err)
		}
		p = &tested{log: log, tests: make(map[string]*test)}
		r.packages[e.Package] = p
	}
	switch {
	case e.Action == "output":
		p.print(e)
		if _, err := p.log.WriteString(e.Output); err != nil {
			return fmt.Errorf("keep what tests print: %w", err)
		}
	case e.Test != "":
		p.of(e.Test).result = map[string]string{"pass": "pass", "fail": "fail", "skip": "skip"}[e.Action]
	case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
		r.endPackage(e, p)
		if err := p.log.Close(); err != nil {
			return fmt.Errorf("keep what tests print: %w", err)
		}
	}
	return nil
}

// logName tells the log of a quick run from that of the rest.
func (r *report) logName(pkg string) string {
	name := strings.NewReplacer("/", "_", " ", "_").Replace(below(pkg)) + ".log"
	if r.quick {
		return "quick_" + name
	}
	return name
}

func (p *tested) of(name string) *test {
	if p.tests[name] == nil {
		p.tests[name] = new(test)
	}
	return p.tests[name]
}

func (p *tested) print(e *event) {
	if e.Test == "" {
		p.output = append(p.output, e.Output)
		return
	}
	t := p.of(e.Test)
	t.output = append(t.output, e.Output)
}

// endPackage prints a line for the package, and before it what of it failed.
func (r *report) endPackage(e *event, p *tested) {
	p.findParents()
	counts := p.count()
	for kind, n := range counts {
		r.counts[kind] += n
	}
	p.failed = e.Action == "fail"
	if p.failed {
		r.showFailed(e.Package, p)
		if counts["fail"] == 0 {
			r.counts["fail"]++
			fmt.Fprint(r.out, strings.Join(p.output, ""))
		}
	}
	r.noteSkips(e.Package, p)
	if len(p.tests) == 0 && e.Action != "fail" {
		return
	}
	word := map[string]string{"pass": "ok  ", "skip": "ok  ", "fail": "FAIL"}[e.Action]
	fmt.Fprintf(r.out, "%s %s %-34s %4d passed %8.1f s\n", clock(time.Since(r.began)), word, below(e.Package), counts["pass"], e.Elapsed)
}

// findParents marks what has subtests. The name of one may have a "/" of its own.
func (p *tested) findParents() {
	for name := range p.tests {
		for i, c := range name {
			if parent := p.tests[name[:i]]; c == '/' && parent != nil {
				parent.children = true
			}
		}
	}
}

// count counts those that have none below them, and those that failed though none below them did.
func (p *tested) count() map[string]int {
	counts := make(map[string]int)
	for name, t := range p.tests {
		result := t.result
		if result == "" { // it never came to its end
			result = "fail"
		}
		if !t.children || result == "fail" && !p.failedBelow(name) {
			counts[result]++
		}
	}
	return counts
}

func (p *tested) failedBelow(name string) bool {
	for other, t := range p.tests {
		if strings.HasPrefix(other, name+"/") && t.result != "pass" && t.result != "skip" {
			return true
		}
	}
	return false
}

// Of a test that failed so many lines are shown; all are in the log. What it says comes first, and the logs of programs last.
const (
	firstShown = 40
	lastShown  = 20
)

func (r *report) showFailed(pkg string, p *tested) {
	for _, name := range slices.Sorted(maps.Keys(p.tests)) {
		t := p.tests[name]
		if t.result == "pass" || t.result == "skip" || p.failedBelow(name) {
			continue
		}
		fmt.Fprintf(r.out, "--- %s %s\n", below(pkg), name)
		lines := t.output
		if left := len(lines) - firstShown - lastShown; left > 0 {
			out := fmt.Sprintf("    (%d lines are left out here, all are in %s)\n", left, p.log.Name())
			lines = slices.Concat(lines[:firstShown], []string{out}, lines[len(lines)-lastShown:])
		}
		fmt.Fprint(r.out, strings.Join(lines, ""))
	}
}

func (r *report) noteSkips(pkg string, p *tested) {
	for _, name := range slices.Sorted(maps.Keys(p.tests)) {
		t := p.tests[name]
		if t.result != "skip" || t.children {
			continue
		}
		reason := "no reason given"
		for _, line := range t.output {
			if where, said, found := strings.Cut(strings.TrimSpace(line), ".go:"); found && !strings.Contains(where, " ") {
				if _, text, found := strings.Cut(said, ": "); found {
					reason = text
				}
			}
		}
		r.skips = append(r.skips, fmt.Sprintf("%s %s: %s", below(pkg), name, reason))
	}
}

// hasFailed tells whether a package of the job has.
func (r *report) hasFailed(j *job) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(j.packages, func(pkg string) bool {
		p := r.packages[pkg+j.part]
		return p != nil && p.failed
	})
}

// end prints the end of the report, and returns whether all has passed: what was to run, and did not, has failed.
func (r *report) end(jobs []*job) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range jobs {
		for _, name := range j.tests {
			if p := r.packages[j.packages[0]+j.part]; p == nil || p.tests[name] == nil {
				fmt.Fprintf(r.out, "--- %s %s did not run\n", below(j.packages[0]), name)
				r.counts["fail"]++
			}
		}
	}
	if len(r.skips) > 0 {
		fmt.Fprintln(r.out, "\nSkipped:")
		for _, line := range r.skips {
			fmt.Fprintln(r.out, " ", line)
		}
	}
	fmt.Fprintf(r.out, "\nIt took %s; what the tests printed is in %s.\n", clock(time.Since(r.began)), r.logs)
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.counts["pass"], r.counts["fail"], r.counts["skip"])
	return r.counts["fail"] == 0
}

// below is a package's path below the module.
func below(pkg string) string { return strings.TrimPrefix(pkg, module+"/") }

// clock shows minutes and seconds.
func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
