// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"replypath/test/evidence/golog"
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
	code, seconds int
	*golog.Section
	log strings.Builder
}

// ended are the tests with a result. Subtests count.
func (r *suiteOutcome) ended(result int) (all []*golog.Outcome) {
	for _, o := range r.Order {
		if o.Result == result {
			all = append(all, o)
		}
	}
	return all
}

// figures are what the tests have logged that passed, once each, but for how much was asked: make evidence adds that up.
func (r *suiteOutcome) figures() (all []string) {
	for _, o := range r.ended(golog.Passed) {
		var texts []string
		for _, line := range o.Lines {
			switch {
			case line.Further && len(texts) > 0:
				texts[len(texts)-1] += "\n        " + line.Text
			case !line.General && !line.Further:
				texts = append(texts, o.Name+": "+line.Text)
			}
		}
		slices.Sort(texts)
		all = append(all, slices.Compact(texts)...)
	}
	return all
}

func (r *suiteOutcome) String() string {
	if r == nil {
		return "not run"
	}
	text := "ok"
	if r.code != 0 {
		text = "FAIL"
	}
	for _, c := range []struct {
		result int
		word   string
	}{{golog.Failed, "failed"}, {golog.Passed, "passed"}, {golog.Skipped, "skipped"}} {
		if n := len(r.ended(c.result)); n > 0 {
			text += fmt.Sprintf(", %d %s", n, c.word)
		}
	}
	return fmt.Sprintf("%s, %d s", text, r.seconds)
}

// report is what became of everything.
type report struct {
	suites   []suite
	outcomes []*outcome
}

// print writes the tests' figures, a table, what was skipped and what failed, and tells whether all passed.
func (r *report) print(w io.Writer, dir string) bool {
	r.printFigures(w)
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
				fmt.Fprintf(w, "Linux %s, %s: %s\n", o.version, s.name, f)
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

// shownLines bounds how much of a log is shown whose end no test tells.
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
		if skipped := r.ended(golog.Skipped); len(skipped) > 0 {
			fmt.Fprintf(w, "\n== Linux %s, %s: skipped\n", o.version, s.name)
			printTests(w, skipped)
		}
		if r.code == 0 {
			continue
		}
		ok = false
		fmt.Fprintf(w, "\n== Linux %s, %s: exit %d (%s)\n", o.version, s.name, r.code, filepath.Join(dir, s.name+".log"))
		printTests(w, r.ended(golog.Failed))
		if !strings.HasSuffix(r.log.String(), "FAIL\n") { // no test's verdict ends it, but a panic or a time-out
			fmt.Fprintln(w, lastLines(r.log.String(), shownLines))
		}
	}
	return ok
}

// printTests shows what each test has logged that has no subtest among them.
func printTests(w io.Writer, tests []*golog.Outcome) {
	for _, o := range tests {
		if slices.ContainsFunc(tests, func(other *golog.Outcome) bool { return strings.HasPrefix(other.Name, o.Name+"/") }) {
			continue
		}
		fmt.Fprintln(w, o.Name)
		for _, line := range o.Lines {
			fmt.Fprintln(w, "    "+line.Text)
		}
	}
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > count {
		lines = append([]string{"..."}, lines[len(lines)-count:]...)
	}
	return strings.Join(lines, "\n")
}

// results takes apart what a virtual machine says of its suites: lines between
// "@start NAME" and "@end NAME CODE SECONDS" are the log of one, "@done" is last.
type results struct {
	*outcome
	dir   string
	began time.Time
	done  bool

	log   *os.File // of the suite that runs
	suite *suiteOutcome
}

// read reads until the virtual machine is gone. The logs are complete as far as it came.
func (r *results) read(from io.Reader) error {
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadString('\n')
		if lineErr := r.line(line); lineErr != nil {
			return lineErr
		}
		if errors.Is(err, io.EOF) {
			return r.endLog()
		}
		if err != nil {
			return err
		}
	}
}

func (r *results) line(line string) (err error) {
	fields := strings.Fields(line)
	switch {
	case line == "@done\n":
		r.done = true
	case len(fields) == 2 && fields[0] == "@start":
		r.suite = &suiteOutcome{code: notEnded, Section: golog.NewSection()}
		r.suites[fields[1]] = r.suite
		r.log, err = os.Create(filepath.Join(r.dir, fields[1]+".log"))
	case len(fields) == 4 && fields[0] == "@end":
		fmt.Printf("%6.1f s  Linux %s, %s: exit %s\n", time.Since(r.began).Seconds(), r.version, fields[1], fields[2])
		_, err = fmt.Sscan(fields[2]+" "+fields[3], &r.suite.code, &r.suite.seconds)
		err = errors.Join(err, r.endLog())
	case r.log != nil:
		r.suite.Read(line)
		r.suite.log.WriteString(line)
		_, err = r.log.WriteString(line)
	}
	return err
}

func (r *results) endLog() error {
	if r.log == nil {
		return nil
	}
	err := r.log.Close()
	r.log = nil
	return err
}
