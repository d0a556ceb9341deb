package doctor

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
)

// xdpPrograms finds programs that see frames before TC does.
func xdpPrograms(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if !d.XDP {
			return "", ""
		}
		return "an xdp program sees frames first: what it answers, redirects or hands to af_xdp is not seen", d.withoutXDP()
	})
}

// virtualFunctions finds interfaces parts of which belong to others.
func virtualFunctions(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if d.VFs == 0 {
			return "", ""
		}
		return fmt.Sprintf("%d virtual functions (sr-iov): what they receive and send passes this host's tc by", d.VFs),
			explained("echo 0 >"+quote("/sys/class/net/"+d.Name+"/device/sriov_numvfs"),
				"takes them from who has them, else run replypath where they are used")
	})
}

// hardwareTC finds interfaces whose hardware may work off filters.
func hardwareTC(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if !d.Features["hw-tc-offload"] {
			return "", ""
		}
		return "hw-tc-offload is on: packets that a filter in the hardware redirects are not seen", "ethtool -K " + quote(d.Name) + " hw-tc-offload off"
	})
}

// offloadedIPsec finds interfaces whose hardware encrypts whole packets.
func offloadedIPsec(h *Host) []Finding {
	return h.ofDevices(func(d *Device) (string, string) {
		if !slices.Contains(h.Offloaded, d.Name) {
			return "", ""
		}
		return "ipsec packet offload: what the hardware decrypts and encrypts is not seen as what it is",
			explained("ethtool -K "+quote(d.Name)+" esp-hw-offload off",
				"set hw_offload=no for strongswan or nic-offload=no for libreswan, too: tunnels that are up keep it until they are made anew")
	})
}

// ofDevices asks for each managed interface what there is to warn of.
func (h *Host) ofDevices(look func(*Device) (found, fix string)) []Finding {
	var all []Finding
	for _, i := range h.Interfaces {
		if d := h.device(i.Index); d != nil {
			if found, fix := look(d); found != "" {
				all = append(all, problem(Warning, i.Name, found, fix))
			}
		}
	}
	return all
}

// withoutXDP is the command that takes a program off. What a bpf link holds cannot
// be taken off by netlink.
func (d *Device) withoutXDP() string {
	const theirs = "somebody attached it: stop who did, or this ends what it does"
	if d.XDPLink != 0 {
		return explained(fmt.Sprintf("bpftool link detach id %d", d.XDPLink), theirs)
	}
	modes := map[uint32]string{nl.XDP_ATTACHED_DRV: "xdpdrv", nl.XDP_ATTACHED_SKB: "xdpgeneric", nl.XDP_ATTACHED_HW: "xdpoffload"}
	return explained(fmt.Sprintf("ip link set dev %s %s off", quote(d.Name), cmp.Or(modes[d.XDPMode], "xdp")), theirs)
}
