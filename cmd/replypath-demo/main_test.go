// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/product"
)

// demoVariable makes the test program the demo.
const demoVariable = "REPLYPATH_TEST_DEMO"

// TestMain makes the test program the heir of whatever a demo leaves running.
func TestMain(m *testing.M) {
	if os.Getenv(demoVariable) != "" {
		main()
		return
	}
	product.Sandboxed(func() int {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			fmt.Fprintln(os.Stderr, "become the heir of orphans:", err)
			return 1
		}
		return m.Run()
	})
}
