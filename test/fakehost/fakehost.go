// SPDX-License-Identifier: Apache-2.0

// Package fakehost stands for a host on which some pin directories hold something: the tests of the commands share what
// is there. It touches nothing.
package fakehost

import (
	"fmt"

	"replypath/loader/pins"
)

// Pin directories of the fake host. Any other holds nothing.
const (
	WatchedDir = "watched" // a datapath with a daemon
	LonelyDir  = "lonely"  // a datapath without one
	IdleDir    = "idle"    // a datapath that is attached nowhere
	ForeignDir = "foreign" // that of another network namespace
	HealthyDir = "healthy" // a datapath with a daemon, of which nothing is wrong
	StrongDir  = "strong"  // the same, which observes in part, and has an interface with the strong host model
)

// DirError is what the loader says of a pin directory.
func DirError(dir string) error {
	switch dir {
	case WatchedDir, LonelyDir, IdleDir, HealthyDir, StrongDir:
		return nil
	case ForeignDir:
		return fmt.Errorf("%s: %w", dir, pins.ErrForeignNamespace)
	}
	return fmt.Errorf("%w in %s: start replypath run", pins.ErrNone, dir)
}
