// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
)

// someLog is what a suite says with -test.v.
const someLog = `=== RUN   TestFault
=== RUN   TestFault/carrier
    figures.go:27: 3 questions, 3 answered
    faults_test.go:12: carrier lost: 3 answers
    faults_test.go:12: carrier lost: 3 answers
=== RUN   TestFault/default
=== NAME  TestFault
    faults_test.go:20: in all:
        3 by eth1
        0 by eth0
level=INFO msg=started
        what a process says that the test has started
--- PASS: TestFault (2.10s)
    --- PASS: TestFault/carrier (1.00s)
    --- PASS: TestFault/default (1.00s)
=== RUN   TestSite
=== RUN   TestSite/without
=== RUN   TestSite/without/ipv4
    figures.go:27: 1 questions, 0 answered
=== RUN   TestSite/without/ipv6
    figures.go:27: 2 questions, 0 answered
=== RUN   TestSite/with
=== RUN   TestSite/with/ipv4
    figures.go:27: 12 questions, 9 answered
    figures.go:30: 5 frames left by the right interface, 0 by another
--- PASS: TestSite (0.10s)
=== RUN   TestBond
    bond_test.go:7: Linux 5.10 has no bonding
--- SKIP: TestBond (0.00s)
=== RUN   TestBroken
    broken_test.go:7: it is broken
--- FAIL: TestBroken (0.00s)
FAIL
`

// TestFiguresOfATest has each line that a test logged shown once and with the test's name, what is general added up and
// only where there is nothing else, and what failed or was skipped left to those who show it anyway.
func TestFiguresOfATest(t *testing.T) {
	var r suiteOutcome
	r.read(someLog)
	want := []figure{
		{test: "TestFault/carrier", text: "carrier lost: 3 answers"},
		{test: "TestFault", text: "in all:\n        3 by eth1\n        0 by eth0"},
		{test: "TestSite/without", text: "3 questions, 0 answered", general: true},
		{test: "TestSite/with", text: "12 questions, 9 answered", general: true},
		{test: "TestSite/with", text: "5 frames left by the right interface, 0 by another", general: true},
	}
	if got := r.figures(); !slices.Equal(got, want) {
		t.Errorf("figures are\n%v\nand not\n%v", got, want)
	}
}

// TestReportShowsFigures has the report say on which kernel each was measured, unless they have been shown already.
func TestReportShowsFigures(t *testing.T) {
	var r suiteOutcome
	r.read(someLog)
	all := report{
		suites:   []suite{{name: "faults"}},
		outcomes: []*outcome{{version: "5.10", suites: map[string]*suiteOutcome{"faults": &r}}},
	}
	for _, shown := range []bool{false, true} {
		all.shown = shown
		var text strings.Builder
		all.print(&text, "logs")
		const line = "\nLinux 5.10, faults: TestFault/carrier: carrier lost: 3 answers\n"
		if got := strings.Contains(text.String(), line); got == shown {
			t.Errorf("shown before: %t, in the report: %t\n%s", shown, got, text.String())
		}
	}
}

// TestSuitesOnKernels: a suite may be for some kernels only.
func TestSuitesOnKernels(t *testing.T) {
	chosen, err := chooseSuites("verifier kinds@6.1,6.12 demo@5.10", "")
	await.Must(t, err)
	for version, want := range map[string]string{"5.10": "verifier demo", "6.1": "verifier kinds", "6.12": "verifier kinds"} {
		var names []string
		for _, s := range suitesOn(version, chosen) {
			names = append(names, s.name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("on %s: %s, not %s", version, got, want)
		}
	}
	if _, err := chooseSuites("kind@6.1", ""); err == nil {
		t.Error("a suite that there is not is chosen")
	}
}
