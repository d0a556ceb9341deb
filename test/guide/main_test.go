// SPDX-License-Identifier: Apache-2.0

// Package guide runs the commands of README, guide and the other pages that users read, in the order of each page, on
// the host that the page speaks of. A page or a command that no test runs fails. Recipes are run by the tests of their
// networks; that is looked up.
package guide

import (
	"flag"
	"os"
	"testing"

	"replypath/test/product"
)

// TestMain makes namespaces only where commands are run.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	product.Main(m)
}
