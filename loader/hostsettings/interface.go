// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// isInterfaceName tells the names that lead to an interface's own directory
// among the sysctls. "all" and "default" are no interfaces: the kernel refuses
// devices of these names.
func isInterfaceName(name string) bool {
	switch name {
	case "", ".", "..", "all", "default":
		return false
	}
	return !strings.Contains(name, "/")
}

// indexOf returns the index of an interface, in the network namespace of the calling thread. The error wraps fs.ErrNotExist
// when there is none of that name. The kernel is asked for this one alone: it may have thousands.
func indexOf(name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fs.ErrNotExist // longer than a name can be
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket for the index of interface %s: %w", name, err)
	}
	defer unix.Close(socket)
	err = unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, request)
	if errors.Is(err, unix.ENODEV) {
		return 0, fs.ErrNotExist
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the index of interface %s: %w", name, err)
	}
	return int(request.Uint32()), nil
}
