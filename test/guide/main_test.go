// Package guide runs the commands of README, guide and the other pages that users read, in
// the order of each page, on the host that the page speaks of. A page or a command that no
// test runs fails. Recipes are run by the tests of their networks; that is looked up.
package guide

import (
	"os"
	"testing"

	"replypath/test/harness"
)

// TestMain runs what needs no root as any user: what is found there is in the pages.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	harness.Main(m)
}
