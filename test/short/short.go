// SPDX-License-Identifier: Apache-2.0

// Package short tells tests whether this is a quick run, which shows each promise once, or one for long.
package short

import (
	"os"
	"testing"
)

// Reason stands in the log of a test that has left something out: a full run runs that test again.
const Reason = "a quick run leaves out some of it: make test-all"

// Run tells whether this is a quick run, and has the test say so.
func Run(t testing.TB) bool {
	t.Helper()
	if testing.Short() {
		t.Log(Reason)
	}
	return testing.Short()
}

// Pairs returns which cases of a matrix of three are run, by the numbers of their values: those in which every pair of values
// meets, and all of them in a run for long.
func Pairs(t testing.TB) func(numbers ...int) bool {
	t.Helper()
	all := Long(t, "every other combination")
	return func(numbers ...int) bool {
		sum := 0
		for _, n := range numbers {
			sum += n
		}
		return all || sum%2 == 0
	}
}

// Long tells whether this is a run for long, of make test-long. Any other has the test say what it leaves out.
func Long(t testing.TB, leftOut string) bool {
	t.Helper()
	isLong := os.Getenv("REPLYPATH_TEST_LONG") != ""
	if !isLong {
		t.Logf("left out: %s: make test-long", leftOut)
	}
	return isLong
}
