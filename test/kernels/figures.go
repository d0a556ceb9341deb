// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// figure is a line that a test has logged, with those below that belong to it.
type figure struct {
	test, text string
	// general is how much was asked and answered, which every test logs (test/traffic/figures.go).
	general bool
}

var (
	// ofTest are lines of `go test -v` after which another test logs.
	ofTest = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S*)`)
	logged = regexp.MustCompile(`^    (\w+\.go):\d+: (.*)`)
	number = regexp.MustCompile(`\d+`)
)

const (
	generalSource = "figures.go"
	// furtherLine is how a line begins that belongs to the logged one above it.
	furtherLine = "        "
)

// figures are what the tests have logged that passed, once each. What is general is left out, but of a test that has
// logged nothing else: there it is added up for each subtest of the first level.
func (r *suiteOutcome) figures() []figure {
	var own, general []figure
	for _, f := range readFigures(r.log) {
		switch {
		case slices.Contains(r.failed, f.test), slices.Contains(r.skipped, f.test):
		case f.general:
			general = append(general, f)
		case !slices.Contains(own, f):
			own = append(own, f)
		}
	}
	general = slices.DeleteFunc(general, func(g figure) bool {
		return slices.ContainsFunc(own, func(f figure) bool { return f.upTo(1) == g.upTo(1) })
	})
	return append(own, addUp(general)...)
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
			all = append(all, figure{test, match[2], match[1] == generalSource})
			goesOn = true
		} else if goesOn = goesOn && strings.HasPrefix(line, furtherLine); goesOn {
			all[len(all)-1].text += "\n" + line
		}
	}
	return all
}

// upTo is the name of the test without subtests below a level.
func (f figure) upTo(level int) string {
	names := strings.Split(f.test, "/")
	return strings.Join(names[:min(len(names), level)], "/")
}

// addUp makes one figure of those below a subtest of the first level that differ in their numbers alone.
func addUp(figures []figure) (sums []figure) {
	wording := func(f figure) string { return f.upTo(2) + ": " + number.ReplaceAllString(f.text, "#") }
	for _, f := range figures {
		i := slices.IndexFunc(sums, func(sum figure) bool { return wording(sum) == wording(f) })
		if i < 0 {
			f.test = f.upTo(2)
			sums = append(sums, f)
			continue
		}
		sums[i].text = addNumbers(sums[i].text, f.text)
	}
	return sums
}

// addNumbers adds the numbers of one text to those of another with the same wording.
func addNumbers(a, b string) string {
	addends := number.FindAllString(b, -1)
	return number.ReplaceAllStringFunc(a, func(n string) string {
		sum, _ := strconv.Atoi(n)
		addend, _ := strconv.Atoi(addends[0])
		addends = addends[1:]
		return strconv.Itoa(sum + addend)
	})
}
