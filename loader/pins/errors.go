// SPDX-License-Identifier: Apache-2.0

// Package pins keeps the pinned state of one datapath: its directory on bpffs,
// the lock that makes one process its owner, the network namespace that it
// works for, and the journal of what was changed on the host.
package pins

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Errors that callers tell apart.
var (
	// ErrNone says that the directory holds no datapath.
	ErrNone = errors.New("no datapath is pinned")
	// ErrOwned says that a live process owns the directory.
	ErrOwned = errors.New("pin directory is in use")
	// ErrForeignContents says that a directory holds what replypath has not
	// pinned.
	ErrForeignContents = errors.New("it holds what is not replypath's")
	// ErrForeignNamespace says that the pins work for another network namespace.
	ErrForeignNamespace = errors.New("pins belong to another network namespace")
)

// OwnedError names the process that owns a pin directory. It matches ErrOwned.
type OwnedError struct {
	Dir string
	PID int // 0 where it could not be told
}

func (e *OwnedError) Error() string {
	return fmt.Sprintf("%s is held by a running replypath, pid %d", Shown(e.Dir), e.PID)
}

// Is makes errors.Is(err, ErrOwned) true.
func (e *OwnedError) Is(target error) bool { return target == ErrOwned }

// OtherError says that the network namespace has a datapath already, in another directory.
type OtherError struct {
	Dir  string // empty where it is not in sight
	PID  int    // of its daemon; 0 where it cannot be told, or has ended in order
	Live bool
}

func (e *OtherError) Error() string {
	const rule = "there is one datapath in a network namespace"
	switch {
	case e.Live && e.Dir == "":
		return fmt.Sprintf("replypath runs in this network namespace already, pid %d, with pins that cannot be seen from here: %s, end that one first",
			e.PID, rule)
	case e.Live:
		return fmt.Sprintf("replypath runs in this network namespace already, pid %d, with its pins in %s: %s, end that one first by "+
			"replypath detach --stop --pin-dir %[2]s", e.PID, e.Dir, rule)
	case e.PID != 0:
		return fmt.Sprintf("this network namespace has a datapath already, pinned in %s by pid %d, which is dead: %s, take that one over by "+
			"--pin-dir %[1]s, or away by replypath detach --pin-dir %[1]s", e.Dir, e.PID, rule)
	}
	return fmt.Sprintf("this network namespace has a datapath already, pinned in %s without a daemon: %s, take that one over by "+
		"--pin-dir %[1]s, or away by replypath detach --pin-dir %[1]s", e.Dir, rule)
}

// Shown is a path as its reader can use it: one that Visible has made leads by a descriptor of this process.
func Shown(path string) string {
	const descriptors = "/proc/self/fd/"
	below, is := strings.CutPrefix(path, descriptors)
	if !is {
		return path
	}
	descriptor, below, _ := strings.Cut(below, "/")
	target, err := os.Readlink(descriptors + descriptor)
	if err != nil {
		return path
	}
	return filepath.Join(target, below)
}

func noneIn(path string) error {
	return fmt.Errorf("%w in %s: start replypath run", ErrNone, Shown(path))
}

func notDirectory(path string) error { return fmt.Errorf("%s is not a directory", Shown(path)) }
