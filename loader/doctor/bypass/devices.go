// Package bypass has the checks of doctor for what packets pass replypath by at, or pass beside it: programs, firewalls,
// and what interfaces do in hardware.
package bypass

import (
	"fmt"
	"slices"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/snapshot"
)

// XDPPrograms finds programs that see frames before TC does.
func XDPPrograms(h *snapshot.Host) []finding.Finding {
	return ofDevices(&h.Links, func(d *snapshot.Device) (string, string) {
		if !d.XDP {
			return "", ""
		}
		return "an xdp program sees frames first: what it answers, redirects or hands to af_xdp is not seen",
			"ip -details link show dev " + finding.Quote(d.Name)
	})
}

// VirtualFunctions finds interfaces parts of which belong to others.
func VirtualFunctions(h *snapshot.Host) []finding.Finding {
	return ofDevices(&h.Links, func(d *snapshot.Device) (string, string) {
		if d.VFs == 0 {
			return "", ""
		}
		return fmt.Sprintf("%d virtual functions (sr-iov): what they receive and send passes this host's tc by: run replypath where they are used", d.VFs),
			"ip link show dev " + finding.Quote(d.Name)
	})
}

// HardwareTC finds interfaces whose hardware may work off filters.
func HardwareTC(h *snapshot.Host) []finding.Finding {
	return ofDevices(&h.Links, func(d *snapshot.Device) (string, string) {
		if !d.Features["hw-tc-offload"] {
			return "", ""
		}
		return "hw-tc-offload is on: packets that a filter in the hardware redirects are not seen", "ethtool -k " + finding.Quote(d.Name)
	})
}

// OffloadedIPsec finds interfaces whose hardware encrypts whole packets.
func OffloadedIPsec(h *snapshot.Host) []finding.Finding {
	return ofDevices(&h.Links, func(d *snapshot.Device) (string, string) {
		if !slices.Contains(h.Offloaded, d.Name) {
			return "", ""
		}
		return "ipsec packet offload: what the hardware decrypts and encrypts is not seen as what it is",
			finding.Explained("ip xfrm state", "strongswan asks for it by hw_offload, libreswan by nic-offload")
	})
}

// ofDevices asks for each managed interface what there is to warn of.
func ofDevices(l *snapshot.Links, look func(*snapshot.Device) (found, inspect string)) []finding.Finding {
	var all []finding.Finding
	for _, i := range l.Interfaces {
		if d := l.Device(i.Index); d != nil {
			if found, inspect := look(d); found != "" {
				all = append(all, finding.Seen(finding.Warning, i.Name, found, inspect).Of(owners.OfDevice(i.Name)))
			}
		}
	}
	return all
}
