// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Namespace tells one network namespace from another.
type Namespace struct {
	Inode uint64 `json:"inode"`
	// Cookie is never used again in the life of the kernel, as an inode number
	// is; 0 where the kernel has no SO_NETNS_COOKIE (before 5.14).
	Cookie uint64 `json:"cookie"`
}

// CurrentNamespace returns the network namespace of the calling thread.
func CurrentNamespace() (Namespace, error) {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return Namespace{}, fmt.Errorf("identify the network namespace: %w", err)
	}
	cookie, err := namespaceCookie()
	if err != nil {
		return Namespace{}, err
	}
	return Namespace{Inode: stat.Ino, Cookie: cookie}, nil
}

func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket to identify the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, nil // an older kernel: the inode has to do
	}
	return cookie, nil
}

// Is tells whether both are the same namespace.
func (n Namespace) Is(other Namespace) bool {
	if n.Cookie != 0 && other.Cookie != 0 {
		return n.Cookie == other.Cookie
	}
	return n.Inode == other.Inode
}

// check returns an error that matches ErrForeignNamespace when what is pinned at
// path works for n, and n is not the namespace of the calling thread.
func (n Namespace) check(path string) error {
	if n == (Namespace{}) {
		return nil
	}
	current, err := CurrentNamespace()
	if err != nil {
		return err
	}
	if !n.Is(current) {
		return fmt.Errorf("%s: %w (inode %d, this one is %d): run it there, or name the pins of this one by --pin-dir. `lsns -t net` shows whether that namespace is there. If not: rm -r %[1]s",
			Shown(path), ErrForeignNamespace, n.Inode, current.Inode)
	}
	return nil
}
