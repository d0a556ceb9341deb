// SPDX-License-Identifier: Apache-2.0

// Command replypath makes a host with several interfaces answer by the one
// that the question came in on.
package main

import (
	"context"
	"os"
	"runtime/debug"
)

//go:generate env UPDATE_MANUAL=1 go test -count=1 -run ^TestManual$ .

func main() {
	saveMemory()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, thisHost()))
}

// saveMemory collects garbage twice as often: a daemon that mostly waits has time for that, and a command that goes through
// a full table keeps little of it. An operator's GOGC says better.
func saveMemory() {
	const percent = 50
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(percent)
	}
}
