package hostsettings

import (
	"io/fs"
	"net"
	"slices"
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
	i, err := find(func(i net.Interface) bool { return i.Name == name })
	return i.Index, err
}

// nameOf returns the present name of an interface. The error wraps
// fs.ErrNotExist when it has gone.
func nameOf(index int) (string, error) {
	i, err := find(func(i net.Interface) bool { return i.Index == index })
	return i.Name, err
}

func find(wanted func(net.Interface) bool) (net.Interface, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return net.Interface{}, err
	}
	if i := slices.IndexFunc(interfaces, wanted); i >= 0 {
		return interfaces[i], nil
	}
	return net.Interface{}, fs.ErrNotExist
}
