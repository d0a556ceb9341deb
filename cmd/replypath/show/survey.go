// SPDX-License-Identifier: Apache-2.0

package show

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/status"
)

// Survey is what a configuration means on this host.
type Survey struct {
	Interfaces []Checked          `json:"interfaces"` // that would be managed
	Unmanaged  []status.Unmanaged `json:"unmanaged"`
	Missing    []string           `json:"missing"` // configured names that no interface has
}

// Checked is one that would be managed.
type Checked struct {
	Name      string `json:"name"`
	Mode      string `json:"mode"`
	HostModel string `json:"host_model"`
	NextHop   string `json:"next_hop"`
}

// Surveyor tells what a configuration means on this host, or why it is not valid there; warnings name what is odd.
type Surveyor func(*config.Config) (s Survey, warnings []string, err error)

// SurveyHost looks at the interfaces that are there, which takes no rights, and returns what a
// configuration means for them, with warnings. An error that matches config.ErrInvalid says that
// they cannot follow the configuration, any other that it is not known.
func SurveyHost(cfg *config.Config) (s Survey, warnings []string, err error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return s, nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer handle.Close()
	found, err := discover.Scan(handle, cfg)
	if err != nil {
		return s, nil, err
	}
	for _, i := range found.Interfaces {
		s.Interfaces = append(s.Interfaces, Checked{
			Name: i.Name, Mode: string(i.Settings.Mode), HostModel: string(i.Settings.HostModel), NextHop: string(i.Settings.NextHop),
		})
	}
	for _, u := range found.Unmanaged {
		s.Unmanaged = append(s.Unmanaged, status.Unmanaged(u))
	}
	s.Missing = found.Missing
	astray, err := found.Astray(handle)
	for n := range astray {
		found.Warnings = append(found.Warnings, astray[n].String())
	}
	return s, found.Warnings, errors.Join(err, found.Contradiction)
}
