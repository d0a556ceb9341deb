// Package pins keeps the pinned state of one datapath: its directory on bpffs,
// the lock that makes one process its owner, the network namespace that it
// works for, and the journal of what was changed on the host.
package pins

import (
	"errors"
	"fmt"
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
	return fmt.Sprintf("%s is held by a running replypath, pid %d", e.Dir, e.PID)
}

// Is makes errors.Is(err, ErrOwned) true.
func (e *OwnedError) Is(target error) bool { return target == ErrOwned }
