// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/short"
)

// events are what `go test -json` says of two packages; of the times only one matters.
const events = `
{"Action":"run","Package":"replypath/test/x","Test":"TestA"}
{"Action":"run","Package":"replypath/test/x","Test":"TestA/GET_/metrics"}
{"Action":"pass","Package":"replypath/test/x","Test":"TestA/GET_/metrics"}
{"Action":"pass","Package":"replypath/test/x","Test":"TestA"}
{"Action":"run","Package":"replypath/test/x","Test":"TestB"}
{"Action":"output","Package":"replypath/test/x","Test":"TestB","Output":"    b_test.go:7: ` + short.Reason + `\n"}
{"Action":"pass","Package":"replypath/test/x","Test":"TestB"}
{"Action":"run","Package":"replypath/test/x","Test":"TestC"}
{"Action":"output","Package":"replypath/test/x","Test":"TestC","Output":"    c_test.go:9: Linux 6.18 has no bonding\n"}
{"Action":"skip","Package":"replypath/test/x","Test":"TestC"}
{"Action":"pass","Package":"replypath/test/x","Elapsed":1.5}
{"Action":"run","Package":"replypath/y","Test":"TestD"}
{"Action":"pass","Package":"replypath/y","Test":"TestD"}
{"Action":"pass","Package":"replypath/y"}
`

// more has a failure below a test, and a test that did not end.
const more = `
{"Action":"run","Package":"replypath/z","Test":"TestE"}
{"Action":"run","Package":"replypath/z","Test":"TestE/ipv4"}
{"Action":"output","Package":"replypath/z","Test":"TestE/ipv4","Output":"    e_test.go:1: lost\n"}
{"Action":"fail","Package":"replypath/z","Test":"TestE/ipv4"}
{"Action":"fail","Package":"replypath/z","Test":"TestE"}
{"Action":"run","Package":"replypath/z","Test":"TestF"}
{"Action":"fail","Package":"replypath/z"}
`

func reportOf(t *testing.T, text string) (r *report, said *strings.Builder) {
	t.Helper()
	said = new(strings.Builder)
	r = newReport(said, t.TempDir(), true)
	for line := range strings.Lines(strings.TrimSpace(text)) {
		var e event
		await.Must(t, json.Unmarshal([]byte(line), &e))
		await.Must(t, r.take(&e))
	}
	return r, said
}

// TestReport: a line for each package, what was skipped and why, and the counts of what has no subtests.
func TestReport(t *testing.T) {
	r, said := reportOf(t, events)
	if !r.end(nil) {
		t.Error("failed")
	}
	await.Says(t, "the report", said.String(), "ok   test/x                                2 passed      1.5 s", "ok   y ",
		"Skipped:\n  test/x TestC: Linux 6.18 has no bonding\n", "\n3 passed, 0 failed, 1 skipped\n")
}

// TestFailures: what failed is shown, and counts once; so does what did not run or did not end.
func TestFailures(t *testing.T) {
	r, said := reportOf(t, more)
	if r.end([]*job{{packages: []string{"replypath/z"}, tests: []string{"TestE", "TestGone"}}}) {
		t.Error("passed")
	}
	await.Says(t, "the report", said.String(), "--- z TestE/ipv4\n    e_test.go:1: lost\n", "--- z TestF\n", "FAIL z ", "--- z TestGone did not run\n",
		"\n0 passed, 3 failed, 0 skipped\n")
}

// TestShown: the rest of a full run leaves out what ran whole.
func TestShown(t *testing.T) {
	r, _ := reportOf(t, events)
	jobs := []*job{{packages: []string{"replypath/test/x"}, tests: []string{"TestA", "TestB"}}, {packages: []string{"replypath/y"}}}
	await.Must(t, r.noteShown(jobs))
	o := options{logs: r.logs}
	rest, err := o.leaveOut([]*job{{packages: []string{"replypath/test/x"}}, {packages: []string{"replypath/y"}}})
	await.Must(t, err)
	if len(rest) != 1 || strings.Join(rest[0].skip, " ") != "TestA" {
		t.Errorf("left: %+v", rest)
	}
	if _, err := os.Stat(filepath.Join(r.logs, "quick_test_x.log")); err != nil {
		t.Error(err)
	}
}
