// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"io/fs"
	"net"
	"strings"
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

// indexOf returns the index of an interface. The error wraps fs.ErrNotExist
// when there is none of that name.
func indexOf(name string) (int, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return 0, err
	}
	for _, i := range interfaces {
		if i.Name == name {
			return i.Index, nil
		}
	}
	return 0, fs.ErrNotExist
}
