// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"slices"
	"strings"
)

// figure is a line that a test has logged, with those below that belong to it.
type figure struct{ test, text string }

var (
	// ofTest are lines of `go test -v` after which another test logs.
	ofTest = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S*)`)
	logged = regexp.MustCompile(`^    (\w+\.go):\d+: (.*)`)
)

const (
	// generalSource logs how much was asked and answered, which every test does (test/traffic/figures.go): make evidence
	// adds that up.
	generalSource = "figures.go"
	// furtherLine is how a line begins that belongs to the logged one above it.
	furtherLine = "        "
)

// figures are what the tests have logged that passed, once each.
func (r *suiteOutcome) figures() (all []figure) {
	for _, f := range readFigures(r.log) {
		if !slices.Contains(r.failed, f.test) && !slices.Contains(r.skipped, f.test) && !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// readFigures returns what tests have logged, in its order.
func readFigures(log string) (all []figure) {
	var test string
	goesOn := false
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\r\n")
		if match := ofTest.FindStringSubmatch(line); match != nil {
			test = match[1]
		}
		if match := logged.FindStringSubmatch(line); match != nil {
			if goesOn = match[1] != generalSource; goesOn {
				all = append(all, figure{test, match[2]})
			}
		} else if goesOn = goesOn && strings.HasPrefix(line, furtherLine); goesOn {
			all[len(all)-1].text += "\n" + line
		}
	}
	return all
}
