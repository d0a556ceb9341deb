// SPDX-License-Identifier: Apache-2.0

// Command replypath makes a host with several interfaces answer by the one
// that the question came in on.
package main

import (
	"context"
	"os"
)

//go:generate env UPDATE_MANUAL=1 go test -count=1 -run ^TestManual$ .

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, thisHost()))
}
