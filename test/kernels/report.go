// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// outcome is what became of all suites on one kernel.
type outcome struct {
	version, release string
	end              string // how the virtual machine ended, if not as it should
	suites           map[string]*suiteOutcome
}

// notEnded stands for the exit code of a suite that was running when its virtual machine ended.
const notEnded = -1

// suiteOutcome is what became of one suite.
type suiteOutcome struct {
	code, seconds   int
	passed          int
	failed, skipped []string
	log             string
}

// verdicts are lines of `go test -v`. Subtests count.
var verdicts = regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL|SKIP): (\S+)`)

// readOutcome reads the results of one kernel.
func readOutcome(version, release, dir string, suites []suite, end string) (*outcome, error) {
	o := &outcome{version: version, release: release, end: end, suites: make(map[string]*suiteOutcome)}
	for _, s := range suites {
		log, err := os.ReadFile(filepath.Join(dir, s.name+logSuffix))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not run: the machine ended before
		}
		if err != nil {
			return nil, err
		}
		r := new(suiteOutcome)
		if err := r.readResult(filepath.Join(dir, s.name+resultSuffix)); err != nil {
			return nil, err
		}
		r.read(string(log))
		o.suites[s.name] = r
	}
	return o, nil
}

// readResult reads the exit code and the time that a suite took. One without has not ended.
func (r *suiteOutcome) readResult(file string) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		r.code = notEnded
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(string(text), &r.code, &r.seconds); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func (r *suiteOutcome) read(log string) {
	r.log = log
	for _, match := range verdicts.FindAllStringSubmatch(log, -1) {
		switch name := match[2]; match[1] {
		case "PASS":
			r.passed++
		case "FAIL":
			r.failed = append(r.failed, name)
		case "SKIP":
			r.skipped = append(r.skipped, name)
		}
	}
}

func (r *suiteOutcome) String() string {
	if r == nil {
		return "not run"
	}
	text := "ok"
	if r.code != 0 {
		text = "FAIL"
		if len(r.failed) > 0 {
			text += fmt.Sprintf(" %d", len(r.failed))
		}
	}
	if r.passed > 0 {
		text += fmt.Sprintf(", %d passed", r.passed)
	}
	if len(r.skipped) > 0 {
		text += fmt.Sprintf(", %d skipped", len(r.skipped))
	}
	return fmt.Sprintf("%s, %d s", text, r.seconds)
}

// report is what became of everything.
type report struct {
	suites   []suite
	outcomes []*outcome
	shown    bool // what the tests have logged was shown while they ran
}

// print writes the tests' figures, a table, what was skipped and what failed, and tells whether all passed.
func (r *report) print(w io.Writer, dir string) bool {
	if !r.shown {
		r.printFigures(w)
	}
	ok := true
	for _, o := range r.outcomes {
		ok = o.printDetails(w, r.suites, filepath.Join(dir, o.version)) && ok
	}
	r.printTable(w)
	return ok
}

// printFigures writes what the tests have logged, so that each line says by itself where it was measured.
func (r *report) printFigures(w io.Writer) {
	for _, o := range r.outcomes {
		for _, s := range r.suites {
			if o.suites[s.name] == nil {
				continue
			}
			for i, f := range o.suites[s.name].figures() {
				if i == 0 {
					fmt.Fprintln(w)
				}
				fmt.Fprintf(w, "Linux %s, %s: %s: %s\n", o.version, s.name, f.test, f.text)
			}
		}
	}
}

func (r *report) printTable(w io.Writer) {
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprint(table, "KERNEL")
	for _, s := range r.suites {
		fmt.Fprint(table, "\t", strings.ToUpper(s.name))
	}
	fmt.Fprintln(table)
	for _, o := range r.outcomes {
		fmt.Fprint(table, o.release)
		for _, s := range r.suites {
			if !s.runsOn(o.version) {
				fmt.Fprint(table, "\t-")
				continue
			}
			fmt.Fprint(table, "\t", o.suites[s.name])
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}

// shownLines bounds how much of a log is shown where no test failed by name.
const shownLines = 80

func (o *outcome) printDetails(w io.Writer, suites []suite, dir string) bool {
	ok := o.end == ""
	if !ok {
		fmt.Fprintf(w, "\n== Linux %s: %s; the end of %s:\n", o.version, o.end, filepath.Join(dir, consoleLog))
		console, _ := os.ReadFile(filepath.Join(dir, consoleLog))
		fmt.Fprintln(w, lastLines(string(console), shownLines))
	}
	for _, s := range suitesOn(o.version, suites) {
		r := o.suites[s.name]
		if r == nil {
			ok = false
			continue
		}
		if len(r.skipped) > 0 {
			fmt.Fprintf(w, "\n== Linux %s, %s: skipped\n", o.version, s.name)
			r.printTests(w, r.skipped)
		}
		if r.code == 0 {
			continue
		}
		ok = false
		fmt.Fprintf(w, "\n== Linux %s, %s: exit %d (%s)\n", o.version, s.name, r.code, filepath.Join(dir, s.name+".log"))
		if len(r.failed) == 0 {
			fmt.Fprintln(w, lastLines(r.log, shownLines))
		} else {
			r.printTests(w, r.failed)
		}
	}
	return ok
}

// printTests shows the log of each test that has no failed or skipped subtest of its own.
func (r *suiteOutcome) printTests(w io.Writer, tests []string) {
	for _, test := range tests {
		hasSubtest := slices.ContainsFunc(tests, func(other string) bool { return strings.HasPrefix(other, test+"/") })
		if !hasSubtest {
			fmt.Fprintln(w, lastLines(r.section(test), shownLines))
		}
	}
}

// section is what a test has logged: what stands between its start, or the start
// of going on with it, and the next test's line.
func (r *suiteOutcome) section(test string) string {
	var section strings.Builder
	inside := false
	for line := range strings.Lines(r.log) {
		if name, ok := strings.CutPrefix(line, "=== "); ok {
			fields := strings.Fields(name)
			inside = len(fields) == 2 && fields[0] != "PAUSE" && fields[1] == test
			continue
		}
		match := verdicts.FindStringSubmatch(line)
		if match != nil {
			inside = match[2] == test
		}
		if inside {
			section.WriteString(line)
		}
	}
	return section.String()
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > count {
		lines = append([]string{"..."}, lines[len(lines)-count:]...)
	}
	return strings.Join(lines, "\n")
}
