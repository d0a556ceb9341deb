// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"fmt"
	"strings"
)

// Key returns the key of an interface's setting for sysctl(8), or of that of
// "all": Key("ipv4", "eth0.100", "rp_filter") is
// "net.ipv4.conf.eth0/100.rp_filter".
func Key(family, name, leaf string) string {
	return setting("net/" + family + "/conf/" + name + "/" + leaf).key()
}

// NeighbourKey is Key for the settings of an interface's neighbour table:
// "net.ipv4.neigh.eth0.mcast_resolicit".
func NeighbourKey(family, name, leaf string) string {
	return setting("net/" + family + "/neigh/" + name + "/" + leaf).key()
}

// Read returns the value of a sysctl. The error wraps fs.ErrNotExist where this
// kernel or this network namespace has none of that key.
func Read(key string) (string, error) { return settingOf(key).read() }

// ReadNumber is Read for a number.
func ReadNumber(key string) (int, error) { return settingOf(key).readNumber() }

// Plan returns the change that gives a sysctl a value, for Make once it has been
// noted down, and nil when it has that value.
func Plan(key, value string) (*Change, error) {
	before, err := Read(key)
	if err != nil || before == value {
		return nil, err
	}
	change := &Change{Key: key, Before: before, After: value}
	if name := InterfaceOf(key); name != "" {
		if change.Interface, err = indexOf(name); err != nil {
			return nil, fmt.Errorf("set sysctl %s to %s: %w", key, value, err)
		}
	}
	return change, nil
}

// InterfaceOf returns the name of the interface that a sysctl belongs to, "" for
// one that belongs to none.
func InterfaceOf(key string) string {
	elements := strings.Split(string(settingOf(key)), "/")
	if len(elements) != 5 || elements[0] != "net" || !isInterfaceName(elements[3]) {
		return ""
	}
	return elements[3]
}
