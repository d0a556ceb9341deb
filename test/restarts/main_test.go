// SPDX-License-Identifier: Apache-2.0

// Package restarts tests that the daemon may die and the program may change, at
// any moment and again and again, under traffic.
package restarts

import (
	"os"
	"strconv"
	"testing"

	"replypath/test/harness"
	_ "replypath/test/harness/inprocess"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { harness.Main(m) }

// timesVariable cuts down how often everything is done, for virtual machines and where every change is tested.
const timesVariable = "REPLYPATH_TEST_RESTARTS"

// times is how often everything is done.
func times(t *testing.T) int {
	t.Helper()
	text := os.Getenv(timesVariable)
	if text == "" {
		return 100
	}
	return harness.Must1[int](t)(strconv.Atoi(text))
}

// newServer builds the network of a server with two interfaces, where every
// router takes any source: a reply that goes astray arrives, and is captured.
func newServer(t *testing.T) *topology.TwoNIC {
	t.Helper()
	return harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
}
