// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"replypath/test/await"
	"replypath/test/evidence/golog"
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
=== RUN   TestBond
    bond_test.go:7: Linux 5.10 has no bonding
--- SKIP: TestBond (0.00s)
=== RUN   TestBroken
    broken_test.go:7: it is broken
--- FAIL: TestBroken (0.00s)
FAIL
`

// TestFiguresOfATest has each line that a test logged shown once and with the test's name, without what every test logs,
// and what failed or was skipped left to those who show it anyway.
func TestFiguresOfATest(t *testing.T) {
	r := suiteOutcome{Section: golog.Read(someLog)}
	want := []string{"TestFault: in all:\n        3 by eth1\n        0 by eth0", "TestFault/carrier: carrier lost: 3 answers"}
	await.Same(t, "figures", want, r.figures())
}
