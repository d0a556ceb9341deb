// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// namespacePath leads to the network namespace of the calling thread. Whoever opens it, in
// whatever mount or PID namespace, opens the same file.
const namespacePath = "/proc/thread-self/ns/net"

// NamespaceLock makes this process the only one that puts a datapath into its network
// namespace, or takes one away. It ends with the process, whatever ends it.
type NamespaceLock struct{ handle *os.File }

// BusyError says that another process has the lock of the network namespace.
type BusyError struct {
	PID int // 0 where it cannot be told
	// Stranger tells that it could not put a datapath in place: anybody may lock the file.
	Stranger bool
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("the network namespace is locked by process %d", e.PID)
}

// LockNamespace takes the lock of the calling thread's network namespace. It waits for a
// moment; then it returns a *BusyError.
func LockNamespace() (*NamespaceLock, error) {
	handle, err := os.Open(namespacePath)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	err = lockHandle(handle)
	if err == nil {
		return &NamespaceLock{handle}, nil
	}
	handle.Close()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	pid, err := Holder(namespacePath)
	if err != nil {
		return nil, err
	}
	return nil, &BusyError{PID: pid, Stranger: pid != 0 && !isPrivileged(pid)}
}

// Close ends the lock.
func (l *NamespaceLock) Close() error {
	if l == nil || l.handle == nil {
		return nil
	}
	err := l.handle.Close()
	l.handle = nil
	return err
}

// NamespaceHolder returns the process of replypath that has the lock of the calling thread's network namespace, 0 for none.
func NamespaceHolder() (int, error) {
	pid, err := Holder(namespacePath)
	if err != nil || pid == 0 || !isPrivileged(pid) {
		return 0, err
	}
	return pid, nil
}

// isPrivileged tells whether a process could put a datapath in place: root started it, or the user of this one, and it has
// CAP_NET_ADMIN, which it needs in our user namespace. Its effective user would tell less: a lock goes along into a program
// that is root for everybody.
func isPrivileged(pid int) bool {
	status, err := statusOf(pid)
	if err != nil {
		// Who took the lock has ended, and left it to a child. We never do.
		return !errors.Is(err, fs.ErrNotExist)
	}
	real := int(status.UIDs[0])
	return (real == 0 || real == os.Getuid()) && status.CapEff&(1<<unix.CAP_NET_ADMIN) != 0 && isOfOurUsers(pid)
}

// isOfOurUsers tells whether a process has our user namespace, or one that maps all users as that does. The link that tells
// them apart is not for everybody to read.
func isOfOurUsers(pid int) bool {
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	ours, ourErr := os.ReadFile("/proc/self/uid_map")
	return err == nil && ourErr == nil && bytes.Equal(theirs, ours)
}
