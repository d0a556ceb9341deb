package doctor

import (
	"fmt"
	"slices"
)

// xdpPrograms finds programs that see frames before TC does.
func xdpPrograms(h *Host) []Finding {
	return ofDevices(&h.Links, func(d *Device) (string, string) {
		if !d.XDP {
			return "", ""
		}
		return "an xdp program sees frames first: what it answers, redirects or hands to af_xdp is not seen",
			"ip -details link show dev " + quote(d.Name)
	})
}

// virtualFunctions finds interfaces parts of which belong to others.
func virtualFunctions(h *Host) []Finding {
	return ofDevices(&h.Links, func(d *Device) (string, string) {
		if d.VFs == 0 {
			return "", ""
		}
		return fmt.Sprintf("%d virtual functions (sr-iov): what they receive and send passes this host's tc by: run replypath where they are used", d.VFs),
			"ip link show dev " + quote(d.Name)
	})
}

// hardwareTC finds interfaces whose hardware may work off filters.
func hardwareTC(h *Host) []Finding {
	return ofDevices(&h.Links, func(d *Device) (string, string) {
		if !d.Features["hw-tc-offload"] {
			return "", ""
		}
		return "hw-tc-offload is on: packets that a filter in the hardware redirects are not seen", "ethtool -k " + quote(d.Name)
	})
}

// offloadedIPsec finds interfaces whose hardware encrypts whole packets.
func offloadedIPsec(h *Host) []Finding {
	return ofDevices(&h.Links, func(d *Device) (string, string) {
		if !slices.Contains(h.Offloaded, d.Name) {
			return "", ""
		}
		return "ipsec packet offload: what the hardware decrypts and encrypts is not seen as what it is",
			explained("ip xfrm state", "strongswan asks for it by hw_offload, libreswan by nic-offload")
	})
}

// ofDevices asks for each managed interface what there is to warn of.
func ofDevices(l *Links, look func(*Device) (found, inspect string)) []Finding {
	var all []Finding
	for _, i := range l.Interfaces {
		if d := l.device(i.Index); d != nil {
			if found, inspect := look(d); found != "" {
				all = append(all, seen(Warning, i.Name, found, inspect).of(ownerOfDevice(i.Name)))
			}
		}
	}
	return all
}
