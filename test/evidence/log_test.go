// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/evidence/promise"
)

// someLog is of two packages.
const someLog = `tests of commit 1234abc on Linux 6.18.44, 2026-11-25
=== RUN   TestFault
=== RUN   TestFault/carrier
=== PAUSE TestFault/carrier
=== RUN   TestFault/default
=== PAUSE TestFault/default
=== CONT  TestFault/carrier
    figures.go:27: 3 questions, 3 answered
    faults_test.go:12: eth0: 3 answers, the longest pause 20.4ms, by 02:00:00:00:00:01
=== CONT  TestFault/default
    faults_test.go:12: eth0: 12 answers, the longest pause 1.5s, by 02:00:00:00:00:02
        of 7
level=INFO msg=started
=== NAME  TestFault
    faults_test.go:20: back after [270ms 510ms 300ms] | 2 of 10.1.0.1
--- PASS: TestFault (2.10s)
    --- PASS: TestFault/carrier (1.00s)
    --- PASS: TestFault/default (1.00s)
=== RUN   TestSite
=== RUN   TestSite/without
    figures.go:27: 1 questions, 0 answered
=== RUN   TestSite/with
    figures.go:27: 12 questions, 9 answered
    figures.go:30: 5 frames left by the right interface, 0 by another
=== RUN   TestSite/with/more
    figures.go:27: 3 questions, 3 answered
--- PASS: TestSite (0.10s)
    --- PASS: TestSite/without (0.10s)
    --- PASS: TestSite/with (0.10s)
        --- PASS: TestSite/with/more (0.10s)
=== RUN   TestHung
PASS
ok  	replypath/test/faults	12.3s
?   	replypath/test/host	[no test files]
=== RUN   TestBond
    bond_test.go:7: Linux 5.10 has no bonding
--- SKIP: TestBond (0.00s)
=== RUN   TestKinds
=== RUN   TestKinds/bridge
    kinds_test.go:9: no bridges here
--- PASS: TestKinds (0.00s)
    --- SKIP: TestKinds/bridge (0.00s)
=== RUN   TestBroken
--- FAIL: TestBroken (0.00s)
FAIL
FAIL	replypath/test/devices	0.1s
`

func test(pkg, name string) promise.Test { return promise.Test{Package: pkg, Name: name} }

// TestResults reads a log of `go test -v`.
func TestResults(t *testing.T) {
	r := newResults()
	r.read(someLog)
	if want := (run{"1234abc", "6.18.44", "2026-11-25"}); r.about != want {
		t.Errorf("the log is of %v, not %v", r.about, want)
	}
	for name, want := range map[promise.Test]int{
		test("test/faults", "TestFault"):         passed,
		test("test/faults", "TestFault/carrier"): passed,
		test("test/faults", "TestHung"):          failed,
		test("test/faults", "TestBond"):          notRun,
		test("test/devices", "TestBond"):         skipped,
		test("test/devices", "TestKinds"):        skipped,
		test("test/devices", "TestBroken"):       failed,
	} {
		if got, _, _ := r.of(name); got != want {
			t.Errorf("%s: %d, not %d", name, got, want)
		}
	}
}

// TestFigures: lines that differ in their numbers alone are one; what is general is shown alone, added up.
func TestFigures(t *testing.T) {
	r := newResults()
	r.read(someLog)
	for _, c := range []struct{ test, figures, want string }{
		{"TestFault", "", "back after 270 to 510 ms | 2 of 10.1.0.1; 2 times: eth0: 3 to 12 answers, the longest pause 20 ms to 1.5 s, by a MAC"},
		{"TestFault", `back.*\]|^of .*`, "back after 270 to 510 ms; of 7"},
		{"TestFault", "$^", ""},
		{"TestSite", "", "without: 1 questions, 0 answered; with: 15 questions, 12 answered, 5 frames left by the right interface, 0 by another"},
	} {
		if got := r.figuresOf(test("test/faults", c.test), regexp.MustCompile(c.figures)); got != c.want {
			t.Errorf("%s, %q:\n%s\nand not\n%s", c.test, c.figures, got, c.want)
		}
	}
	if got, want := r.skipReason(test("test/devices", "TestKinds")), "no bridges here"; got != want {
		t.Errorf("skipped as %q, not %q", got, want)
	}
}

// TestRefused: a test that failed or did not run shows nothing, and is named.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	o := options{promises: filepath.Join(dir, "promises.yaml"), page: filepath.Join(dir, "page.md"), logs: []string{filepath.Join(dir, "log")}}
	const text = "- title: T\n  promises: [{id: a, promise: A., tests: [test/faults TestFault, test/faults TestAbsent]}," +
		" {id: b, promise: B., tests: [test/devices TestBroken]}]\n"
	await.Must(t, os.WriteFile(o.promises, []byte(text), 0o600))
	await.Must(t, os.WriteFile(o.logs[0], []byte(someLog), 0o600))
	for partial, want := range map[bool]bool{false: true, true: false} {
		o.partial = partial
		err := generate(&o)
		if err == nil || !strings.Contains(err.Error(), "test/devices TestBroken (failed)") ||
			strings.Contains(err.Error(), "TestAbsent (did not run)") != want || strings.Contains(err.Error(), "TestFault ") {
			t.Errorf("partial %t: %v", partial, err)
		}
	}
}

// TestKernels: what this machine's kernel has to skip counts where another one passed it, and fails where one did not.
func TestKernels(t *testing.T) {
	const onOther = "=== RUN   TestBond\n    bond_test.go:9: 3 answers\n--- PASS: TestBond (1.00s)\nPASS\n"
	bond := test("test/devices", "TestBond")
	p := promise.Promise{ID: "bond", Promise: "B.", Tests: []promise.Test{bond}, Shown: regexp.MustCompile("")}
	groups := []promise.Group{{Promises: []promise.Promise{p}}}
	dir := t.TempDir()
	for version, log := range map[string]string{"5.10": onOther, "6.1": onOther, "7.2": strings.Replace(onOther, "PASS:", "FAIL:", 1)} {
		await.Must(t, os.MkdirAll(filepath.Join(dir, version), 0o700))
		await.Must(t, os.WriteFile(filepath.Join(dir, version, "kinds.log"), []byte(log), 0o600))
	}
	r := newResults()
	r.read(someLog)
	var err error
	if r.kernels, err = readKernels(dir, groups); err != nil {
		t.Fatal(err)
	}
	if result, printed := r.show(bond, &p); result != "passed on Linux 5.10, 6.1" || printed != "3 answers" {
		t.Errorf("%q, %q", result, printed)
	}
	if got := r.missing(groups, false); len(got) != 1 || got[0] != "test/devices TestBond (failed on Linux 7.2): bond" {
		t.Errorf("refused: %q", got)
	}
}
