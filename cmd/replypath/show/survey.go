// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/status"
)

// Survey is what a configuration means on this host.
type Survey struct {
	Interfaces []Checked          `json:"interfaces"` // that would be managed
	Unmanaged  []status.Unmanaged `json:"unmanaged"`
	Caught     []string           `json:"caught"`  // names of those that routes lead out of
	Missing    []string           `json:"missing"` // configured names that no interface has
}

// Checked is one that would be managed.
type Checked struct {
	Name      string `json:"name"`
	Mode      string `json:"mode"`
	HostModel string `json:"host_model"`
	NextHop   string `json:"next_hop"`
}

// Surveyor tells what a configuration means on this host, or why that is not known; warnings name what is odd.
type Surveyor func(*config.Config) (s Survey, warnings []string, err error)

// SurveyHost looks at the interfaces that are there, which takes no rights, and returns what a
// configuration means for them, with warnings.
func SurveyHost(cfg *config.Config) (s Survey, warnings []string, err error) {
	handle, err := dump.Open()
	if err != nil {
		return s, nil, err
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
	s.Unmanaged = found.Unmanaged
	for _, i := range found.Caught {
		s.Caught = append(s.Caught, i.Name)
	}
	s.Missing, warnings = found.Missing, found.Warnings
	for _, u := range found.Uncaught {
		warnings = append(warnings, fmt.Sprintf("replies that leave by %s are not caught: %s", u.Name, u.Reason))
	}
	if len(found.Interfaces) == 0 {
		warnings = append(warnings, "no interface is managed: no reply is caught")
	}
	return s, warnings, nil
}
