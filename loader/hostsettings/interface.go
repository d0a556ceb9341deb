// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/vishvananda/netlink"
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
	link, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none), err == nil && link.Attrs().Name != name: // one that has it as an alternative name
		return 0, fs.ErrNotExist
	case err != nil:
		return 0, fmt.Errorf("ask for the index of interface %s: %w", name, err)
	}
	return link.Attrs().Index, nil
}
