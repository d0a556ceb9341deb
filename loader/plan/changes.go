// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"
	"strconv"

	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
	"replypath/loader/status"
)

// changes lists what enforcing would change on the host: as the daemon has planned it, and before a first start what
// can be told without one.
func (p *planner) changes() []status.WouldChange {
	switch {
	case p.journal == nil:
		return firstChanges(p.Host)
	case p.EnforcesAll():
		return nil
	}
	return p.journal.WouldChange
}

// firstChanges leaves out the routes for sockets that are bound to a device: they depend on who answers.
func firstChanges(h *snapshot.Host) []status.WouldChange {
	var changes []status.WouldChange
	for _, i := range h.Interfaces {
		key, all := hostsettings.Key("ipv4", i.Name, "rp_filter"), hostsettings.Key("ipv4", "all", "rp_filter")
		if h.Config.ManageRPFilter && max(h.Settings[key], h.Settings[all]) == hostsettings.RPFilterStrict {
			c := status.SysctlChange(&hostsettings.Change{
				Key: key, Before: strconv.Itoa(h.Settings[key]), After: strconv.Itoa(hostsettings.RPFilterLoose),
			})
			changes = append(changes, status.WouldChange{Object: c.Object, Before: c.Before, After: c.After})
		}
	}
	isOurs := func(d snapshot.Device) bool { return d.Name == discover.OwnDevice }
	if h.Config.FallbackRoute && len(h.Interfaces) > 0 && !slices.ContainsFunc(h.Devices, isOurs) {
		c := status.DeviceChange()
		changes = append(changes, status.WouldChange{Object: c.Object, Before: c.Before, After: c.After})
	}
	return changes
}
