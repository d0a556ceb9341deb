// SPDX-License-Identifier: Apache-2.0

// Package golog reads what `go test -v` has printed.
package golog

import (
	"regexp"
	"strings"

	"replypath/test/short"
)

// Results of a test, the one that counts first last: where a test ran twice, a failure is never hidden.
const (
	NotRun = iota
	Skipped
	Passed
	Failed // also what never came to its end
)

var (
	begunLine  = regexp.MustCompile(`^=== RUN +(\S+)`)
	ofTestLine = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S*)`)
	loggedLine = regexp.MustCompile(`^    (\w+\.go):\d+: (.*)`)
	endLine    = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+)`)
	endings    = map[string]int{"PASS": Passed, "SKIP": Skipped, "FAIL": Failed}
)

// generalSource logs how much was asked and answered, which every test does (test/traffic/figures.go).
const generalSource = "figures.go"

// Outcome is what became of a test, and what it has logged.
type Outcome struct {
	Name   string
	Result int
	Lines  []Line
}

// Line is a logged one.
type Line struct {
	Test, Text string
	General    bool // how much was asked and answered
	Further    bool // belongs to the one above it
}

// Section are the tests of one package.
type Section struct {
	Order   []*Outcome
	tests   map[string]*Outcome
	current string   // test that logs
	last    *Outcome // whose line was the last one, nil where it was no logged one
}

// NewSection has no tests yet.
func NewSection() *Section { return &Section{tests: make(map[string]*Outcome)} }

// Read reads the log of one package.
func Read(log string) *Section {
	s := NewSection()
	for line := range strings.Lines(log) {
		s.Read(line)
	}
	return s
}

// Has tells whether there is a test.
func (s *Section) Has(name string) bool { return s.tests[name] != nil }

func (s *Section) of(name string) *Outcome {
	o, known := s.tests[name]
	if !known {
		o = &Outcome{Name: name}
		s.tests[name] = o
		s.Order = append(s.Order, o)
	}
	return o
}

// furtherLine is how a line begins that belongs to the logged one above it.
const furtherLine = "        "

// Read reads one line.
func (s *Section) Read(line string) {
	line = strings.TrimRight(line, "\r\n")
	if text, further := strings.CutPrefix(line, furtherLine); further && s.last != nil {
		s.last.Lines = append(s.last.Lines, Line{s.last.Name, strings.TrimSpace(text), false, true})
		return
	}
	s.last = nil
	if match := begunLine.FindStringSubmatch(line); match != nil {
		s.of(match[1]).Result = Failed // until it has ended otherwise
	}
	if match := ofTestLine.FindStringSubmatch(line); match != nil {
		s.current = match[1]
	} else if match := endLine.FindStringSubmatch(line); match != nil {
		s.of(match[2]).Result = endings[match[1]]
	} else if match := loggedLine.FindStringSubmatch(line); match != nil && s.current != "" && match[2] != short.Reason { // which is about the run
		s.last = s.of(s.current)
		s.last.Lines = append(s.last.Lines, Line{s.current, match[2], match[1] == generalSource, false})
	}
}
