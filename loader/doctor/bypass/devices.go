// SPDX-License-Identifier: Apache-2.0

// Package bypass has the checks of doctor for what packets pass replypath by at, or pass beside it: programs, firewalls,
// and what interfaces do in hardware.
package bypass

import (
	"fmt"
	"slices"

	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
)

// XDPPrograms finds programs that see frames before TC does.
func XDPPrograms(h *snapshot.Host) []finding.Finding {
	return ofDevices(&h.Links, func(d *snapshot.Device) finding.Finding {
		if !d.XDP {
			return finding.None
		}
		return seen(d.Name, "an xdp program sees frames first: replypath does not see what it answers, redirects or hands to af_xdp",
			"ip -details link show dev "+finding.Quote(d.Name))
	})
}

// ofDevices says what there is to say of the device of each managed interface.
func ofDevices(l *snapshot.Links, say func(*snapshot.Device) finding.Finding) []finding.Finding {
	return finding.Each(l.Interfaces, func(i *discover.Interface) finding.Finding { return say(l.Device(i.Index)) })
}

// seen tells of an interface what is worth knowing.
func seen(name, found, inspect string) finding.Finding {
	return finding.Seen(finding.Note, name, found, inspect)
}

// MTUs finds managed interfaces whose MTU is smaller than another's: replies are
// built for the interface that the kernel chose.
func MTUs(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		largest := slices.MaxFunc(h.Interfaces, func(a, b discover.Interface) int { return a.MTU - b.MTU })
		if i.MTU == largest.MTU {
			return finding.None
		}
		return seen(i.Name, fmt.Sprintf("mtu %d, %s has %d: replies that are built for %s may be too large: their sender then learns the size",
			i.MTU, largest.Name, largest.MTU, largest.Name), "ip link show dev "+finding.Quote(i.Name))
	})
}
