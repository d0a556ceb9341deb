package bypass

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/snapshot"
)

// MTUs finds managed interfaces whose MTU is smaller than another's: replies are
// cut for the interface that the kernel chose.
func MTUs(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, i := range h.Interfaces {
		largest := slices.MaxFunc(h.Interfaces, func(a, b discover.Interface) int { return a.MTU - b.MTU })
		if i.MTU < largest.MTU {
			found = append(found, finding.Seen(finding.Warning, i.Name, fmt.Sprintf(
				"mtu %d, %s has %d: replies that are built for %s have to be cut, or their sender told", i.MTU, largest.Name, largest.MTU, largest.Name),
				"ip link show dev "+finding.Quote(i.Name)).Of(owners.OfDevice(i.Name)))
		}
	}
	return found
}

// segmentation are the features whose absence costs when a packet that was built
// for another interface leaves here: the kernel then does in software what it had
// left to the hardware.
var segmentation = []string{"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation", "tx-scatter-gather"}

// Offloads finds managed interfaces that lack what another one has.
func Offloads(h *snapshot.Host) []finding.Finding {
	var found []finding.Finding
	for _, i := range h.Interfaces {
		d := h.Device(i.Index)
		if d == nil || d.Features == nil {
			continue
		}
		var missing []string
		for _, feature := range segmentation {
			if on, known := d.Features[feature]; known && !on && anyHas(&h.Links, feature) {
				missing = append(missing, feature)
			}
		}
		if len(missing) > 0 {
			found = append(found, finding.Seen(finding.Warning, i.Name,
				fmt.Sprintf("%s off, other managed interfaces have it on: replies that are moved here are cut in software", strings.Join(missing, ", ")),
				"ethtool -k "+finding.Quote(i.Name)).Of(owners.OfDevice(i.Name)))
		}
	}
	return found
}

func anyHas(l *snapshot.Links, feature string) bool {
	return slices.ContainsFunc(l.Interfaces, func(i discover.Interface) bool {
		d := l.Device(i.Index)
		return d != nil && d.Features[feature]
	})
}
