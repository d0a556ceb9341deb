// SPDX-License-Identifier: Apache-2.0

// Package hostsettings changes sysctls of managed interfaces where they would
// undo what replypath does, and puts them back.
//
// All functions work in the network namespace of the calling thread, as
// /proc/sys/net does.
package hostsettings

import (
	"fmt"
	"strconv"
)

// Values of rp_filter, from the kernel's ip-sysctl.rst; 0 is no check.
const (
	RPFilterStrict = 1 // the route back must leave by the same interface
	RPFilterLoose  = 2 // there must be a route back
)

// RPFilter returns rp_filter of an interface, that of "all", and the one that
// the kernel applies, which is the larger of both. There is one for IPv4 only.
// The error wraps fs.ErrNotExist when there is no such interface.
func RPFilter(name string) (device, all, effective int, err error) {
	if !isInterfaceName(name) {
		return 0, 0, 0, fmt.Errorf("rp_filter of %q: not the name of an interface", name)
	}
	if device, err = ReadNumber(Key("ipv4", name, "rp_filter")); err != nil {
		return 0, 0, 0, err
	}
	if all, err = ReadNumber(Key("ipv4", "all", "rp_filter")); err != nil {
		return 0, 0, 0, err
	}
	return device, all, max(device, all), nil
}

// IsStrict tells whether the kernel drops what comes in by an interface if the route back leaves by another one.
func IsStrict(name string) bool {
	_, _, effective, err := RPFilter(name)
	return err == nil && effective == RPFilterStrict
}

// PlanRPFilter returns the change that makes a strict rp_filter loose, for Make
// once it has been noted down, and nil when there is nothing to be done. A
// strict one drops whatever comes in by another interface than the one that the
// routes lead back to, and so the very packets that replypath is there for. Only
// the interface's own value is written, as the larger one wins.
func PlanRPFilter(name string) (*Change, error) {
	if _, _, effective, err := RPFilter(name); err != nil || effective != RPFilterStrict {
		return nil, err
	}
	return Plan(Key("ipv4", name, "rp_filter"), strconv.Itoa(RPFilterLoose))
}
