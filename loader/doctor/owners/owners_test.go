// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

// TestOwnerOfRule: rules as each program makes them, and next to each one that only looks like it.
func TestOwnerOfRule(t *testing.T) {
	own, pod := testhost.Prefix("10.4.0.100/32"), testhost.Prefix("10.0.1.7/32")
	for _, test := range []struct {
		name string
		rule snapshot.Rule
		want string
	}{
		{"5210 fwmark 0x80000/0xff0000 lookup main", snapshot.Rule{Priority: 5210, Mark: 0x80000, Mask: 0xff0000, Table: unix.RT_TABLE_MAIN}, tailscale},
		{"5250 fwmark 0x80000/0xff0000 unreachable", snapshot.Rule{Priority: 5250, Mark: 0x80000, Mask: 0xff0000, Refuses: "unreachable"}, tailscale},
		{"5270 lookup 52", snapshot.Rule{Priority: 5270, Table: 52}, tailscale},
		{"1370 lookup 52, beside mwan3", snapshot.Rule{Priority: 1370, Table: 52}, tailscale},
		{"the same bits of another mask", snapshot.Rule{Priority: 5210, Mark: 0x80000, Mask: snapshot.AllBits, Table: unix.RT_TABLE_MAIN}, ""},
		{"another priority of table 52", snapshot.Rule{Priority: 5, Table: 52}, ""},
		{"not fwmark 0xca6c lookup 51820", snapshot.Rule{Priority: 32765, Invert: true, Mark: 0xca6c, Mask: snapshot.AllBits, Table: 51820}, wgQuick},
		{"not fwmark 0xca6d lookup 51821", snapshot.Rule{Priority: 32763, Invert: true, Mark: 0xca6d, Mask: snapshot.AllBits, Table: 51821}, wgQuick},
		{"lookup main suppress_prefixlength 0", snapshot.Rule{Priority: 32764, Table: unix.RT_TABLE_MAIN, SuppressesDefault: true, Other: true}, wgQuick},
		{"fwmark 0xca6c lookup 51820", snapshot.Rule{Priority: 32765, Mark: 0xca6c, Mask: snapshot.AllBits, Table: 51820}, ""},
		{"9 fwmark 0x200/0xf00 lookup 2004", snapshot.Rule{Priority: 9, Mark: 0x200, Mask: 0xf00, Table: 2004, Protocol: unix.RTPROT_KERNEL}, cilium},
		{"10 fwmark 0xa00/0xf00 lookup 2005", snapshot.Rule{Priority: 10, Mark: 0xa00, Mask: 0xf00, Table: 2005}, cilium},
		{"1 fwmark 0xe00/0xf00 lookup 200", snapshot.Rule{Priority: 1, Mark: 0xe00, Mask: 0xf00, Table: 200}, cilium},
		{"20 to a pod lookup main proto kernel", snapshot.Rule{Priority: 20, Dst: pod, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_KERNEL}, cilium},
		{"100 lookup local proto kernel", snapshot.Rule{Priority: 100, Table: unix.RT_TABLE_LOCAL, Protocol: unix.RTPROT_KERNEL}, cilium},
		{"109 fwmark 0x80/0x80 proto kernel", snapshot.Rule{Priority: 109, IIF: "eth0", Mark: 0x80, Mask: 0x80, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_KERNEL}, cilium},
		{"111 from a pod lookup 11 proto kernel", snapshot.Rule{Priority: 111, Src: pod, Table: 11, Protocol: unix.RTPROT_KERNEL}, cilium},
		{"the kernel's own", snapshot.Rule{Priority: 0, Table: unix.RT_TABLE_LOCAL, Protocol: unix.RTPROT_KERNEL}, ""},
		{"the kernel's own, for vrfs", snapshot.Rule{Priority: 1000, Other: true, Protocol: unix.RTPROT_KERNEL}, ""},
		{"9 fwmark 0x2/0xf lookup 100", snapshot.Rule{Priority: 9, Mark: 2, Mask: 0xf, Table: 100}, ""},
		{"110 from an own address, by hand", snapshot.Rule{Priority: 110, Src: own, Table: 101, Protocol: unix.RTPROT_BOOT}, ""},
		{"99 not fwmark 0x100000/0x100000 lookup 1", snapshot.Rule{Priority: 99, Invert: true, Mark: 0x100000, Mask: 0x100000, Table: 1}, calico},
		{"99 not fwmark 0x1/0x1 lookup 1", snapshot.Rule{Priority: 99, Invert: true, Mark: 1, Mask: 1, Table: 1}, ""},
		{"fwmark 0x4000/0x4000", snapshot.Rule{Priority: 7, Mark: 0x4000, Mask: 0x4000, Table: 7}, kubeProxy},
		{"fwmark 0x8000/0x8000", snapshot.Rule{Priority: 7, Mark: 0x8000, Mask: 0x8000, Table: 7}, kubeProxy},
		{"fwmark 0x4000", snapshot.Rule{Priority: 7, Mark: 0x4000, Mask: snapshot.AllBits, Table: 7}, ""},
		{"10001 from an own address lookup 10001", snapshot.Rule{Priority: 10001, Src: own, Table: 10001, Protocol: unix.RTPROT_STATIC}, "amazon-ec2-net-utils"},
		{"10001 from an own address lookup 100", snapshot.Rule{Priority: 10001, Src: own, Table: 100}, ""},
		{"30200 from an own address lookup 30200", snapshot.Rule{Priority: 30200, Src: own, Table: 30200}, "nm-cloud-setup"},
		{"30401 from an own address lookup 30401", snapshot.Rule{Priority: 30401, Src: own, Table: 30401}, "nm-cloud-setup"},
		{"30350 lookup main suppress_prefixlength 0", snapshot.Rule{Priority: 30350, Table: unix.RT_TABLE_MAIN, SuppressesDefault: true, Other: true}, "nm-cloud-setup"},
		{"of protocol keepalived", snapshot.Rule{Priority: 7, Src: own, Table: 7, Protocol: unix.RTPROT_KEEPALIVED}, keepalived},
		{"of protocol static", snapshot.Rule{Priority: 7, Src: own, Table: 7, Protocol: unix.RTPROT_STATIC}, ""},
		{"by hand", snapshot.Rule{Priority: 1000, Src: own, Table: 101, Protocol: unix.RTPROT_BOOT}, ""},
	} {
		if got := OfRule(&test.rule); got != test.want {
			t.Errorf("%s: %q, not %q", test.name, got, test.want)
		}
	}
}

func TestOwnerOfRoute(t *testing.T) {
	for of, want := range map[[2]int]string{ // table, protocol
		{52, unix.RTPROT_BOOT}: tailscale, {51820, unix.RTPROT_BOOT}: wgQuick, {2004, unix.RTPROT_KERNEL}: cilium, {254, unix.RTPROT_STATIC}: "",
		{254, unix.RTPROT_DHCP}: "a DHCP client", {254, unix.RTPROT_RA}: "router advertisements", {254, unix.RTPROT_KEEPALIVED}: keepalived,
		{254, unix.RTPROT_BIRD}: "BIRD", {254, unix.RTPROT_BGP}: "FRR", {254, 196}: "FRR", {254, 66}: "GCE guest agent", {254, 80}: calico,
		{254, unix.RTPROT_BOOT}: "", {100, unix.RTPROT_BOOT}: "",
	} {
		if got := OfRoute(&snapshot.Route{Table: of[0], Protocol: of[1]}); got != want {
			t.Errorf("table %d, protocol %d: %q, not %q", of[0], of[1], got, want)
		}
	}
}

func TestOwnerByName(t *testing.T) {
	for of, want := range map[[2]string]string{ // table, chain
		{"filter", "KUBE-POSTROUTING"}: kubeProxy, {"kube-proxy", "output"}: kubeProxy, {"filter", "CILIUM_OUTPUT"}: cilium,
		{"filter", "cali-OUTPUT"}: calico, {"calico", "output"}: calico, {"filter", "FLANNEL-POSTRTG"}: flannel, {"flannel-ipv4", "output"}: flannel,
		{"filter", "DOCKER-USER"}: docker, {"filter", "ts-postrouting"}: tailscale, {"wg-quick-wg0", "output"}: wgQuick,
		{"firewalld", "output"}: firewalld, {"filter", "OUTPUT"}: "", {"mine", "output"}: "",
	} {
		if got := OfChain(of[0], of[1]); got != want {
			t.Errorf("%v: %q, not %q", of, got, want)
		}
	}
}
