// SPDX-License-Identifier: Apache-2.0

// Package owners tells whose a rule, a route or a chain seems to be.
package owners

import (
	"cmp"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
)

// Names of programs that make rules, routes and chains.
const (
	firewalld  = "firewalld"
	tailscale  = "Tailscale"
	wgQuick    = "wg-quick"
	cilium     = "Cilium"
	calico     = "Calico"
	kubeProxy  = "kube-proxy"
	flannel    = "flannel"
	docker     = "Docker"
	keepalived = "keepalived"
)

// ruleOwners tell by what is documented of them whose a rule seems to be, the surest
// sign first. A mark is compared with its mask: 0x80000/0xff0000 is not 0x80000.
var ruleOwners = []struct {
	owner string
	is    func(*snapshot.Rule) bool
}{
	// tailscale/tailscale, wgengine/router/osrouter/router_linux.go: ipPolicyPrefBase
	// 5200, 1300 beside mwan3, and from there 10, 30, 50 and 70; tsconst/linuxfw.go:
	// marks 0x40000 and 0x80000 of 0xff0000; table 52.
	{tailscale, func(r *snapshot.Rule) bool {
		return r.HasMarkOf(0xff0000, 0x40000, 0x80000) || r.Table == 52 && (r.Priority == 5270 || r.Priority == 1370)
	}},
	// WireGuard/wireguard-tools, src/wg-quick/linux.bash, add_default: `not fwmark
	// $table table $table`, from 51820 on, and `table main suppress_prefixlength 0`.
	{wgQuick, func(r *snapshot.Rule) bool {
		return r.Invert && r.Mark >= 51820 && r.Mark == uint32(r.Table) && r.Mask == snapshot.AllBits
	}},
	// NetworkManager, src/nm-cloud-setup/main.c, _nmc_mangle_connection: priorities and
	// tables 30200 and 30400 and up to 99 more, and 30350 for the main table.
	{"nm-cloud-setup", func(r *snapshot.Rule) bool {
		return r.Priority == r.Table && (isBetween(r.Table, 30200, 30299) || isBetween(r.Table, 30400, 30499)) ||
			r.Priority == 30350 && r.Table == unix.RT_TABLE_MAIN && r.SuppressesDefault
	}},
	{wgQuick, func(r *snapshot.Rule) bool {
		return r.SuppressesDefault && r.Table == unix.RT_TABLE_MAIN && !r.Src.IsValid()
	}},
	// cilium/cilium, pkg/datapath/linux/linux_defaults: priorities 1, 9, 10, 20, 100 and
	// 109 to 112, tables 200 to 202, 2004 and 2005, rules of protocol kernel, marks of
	// 0xf00 (mark.go: 0x200 to the proxy, 0xa00 and 0xb00 from it, 0xd00, 0xe00).
	{cilium, func(r *snapshot.Rule) bool {
		return r.HasMarkOf(0xf00, 0x200, 0xa00, 0xb00, 0xd00, 0xe00) && (isIn(r.Priority, 1, 9, 10) || isIn(r.Table, 200, 201, 2004, 2005)) ||
			isIn(r.Table, 202, 2004, 2005) && isIn(r.Priority, 9, 10, 112) ||
			r.Protocol == unix.RTPROT_KERNEL && (isIn(r.Priority, 20, 109, 110, 111) || r.Priority == 100 && r.Table == unix.RT_TABLE_LOCAL)
	}},
	// projectcalico/calico, felix/wireguard: WireguardRoutingRulePriority 99, not the
	// mark that it has, which is one bit of IptablesMarkMask, 0xffff0000.
	{calico, func(r *snapshot.Rule) bool {
		return r.Priority == 99 && r.Invert && r.Mark != 0 && r.Mark&0xffff == 0 && r.Mark == r.Mask
	}},
	// kubernetes/kubernetes, pkg/proxy/iptables: masqueradeBit 14; pkg/kubelet: KUBE-MARK-DROP.
	{kubeProxy, func(r *snapshot.Rule) bool { return r.HasMarkOf(0x4000, 0x4000) || r.HasMarkOf(0x8000, 0x8000) }},
	// amazonlinux/amazon-ec2-net-utils, lib/lib.sh: rule_base 10000, and as many more as
	// the interface has for a number: the priority is the table.
	{"amazon-ec2-net-utils", func(r *snapshot.Rule) bool {
		return r.Priority == r.Table && isBetween(r.Table, 10000, 10063) && r.Src.IsValid()
	}},
	// linux/rtnetlink.h: RTPROT_KEEPALIVED; acassen/keepalived, keepalived/vrrp.
	{keepalived, func(r *snapshot.Rule) bool { return r.Protocol == unix.RTPROT_KEEPALIVED }},
}

// protocolOwners are those of routes, by linux/rtnetlink.h. Static tells nobody: networkd, NetworkManager and people
// write it.
var protocolOwners = map[int]string{
	unix.RTPROT_DHCP: "a DHCP client", unix.RTPROT_RA: "router advertisements",
	unix.RTPROT_KEEPALIVED: keepalived, unix.RTPROT_ZEBRA: "FRR", unix.RTPROT_BIRD: "BIRD",
	unix.RTPROT_BGP: "FRR", unix.RTPROT_ISIS: "FRR", unix.RTPROT_OSPF: "FRR", unix.RTPROT_RIP: "FRR", unix.RTPROT_EIGRP: "FRR",
	// FRRouting/frr, zebra/rt_netlink.h: RIPng, NHRP, LDP, sharp, PBR, static routes, OpenFabric.
	190: "FRR", 191: "FRR", 193: "FRR", 194: "FRR", 195: "FRR", 196: "FRR", 197: "FRR",
	// GoogleCloudPlatform/guest-agent, google_guest_agent/cfg: ethernet_proto_id, "GG".
	66: "GCE guest agent",
	// projectcalico/calico, felix/config: DeviceRouteProtocol of BPF and VXLAN routes.
	80: calico,
}

// tableOwners are those of routes by the table that they stand in; see ruleOwners.
var tableOwners = map[int]string{52: tailscale, 51820: wgQuick, 2004: cilium, 2005: cilium}

// namedBy tells an owner by a name.
type namedBy struct {
	name  *regexp.Regexp
	owner string
}

// chainOwners tell by the beginning of a table's or a chain's name.
var chainOwners = []namedBy{
	{regexp.MustCompile(`^(KUBE-|kube-proxy)`), kubeProxy},             // kubernetes, pkg/proxy/iptables and pkg/proxy/nftables
	{regexp.MustCompile(`^CILIUM_`), cilium},                           // cilium, pkg/datapath/iptables
	{regexp.MustCompile(`^(cali[-:]|calico)`), calico},                 // calico, felix/rules: ChainNamePrefix, and its nftables tables
	{regexp.MustCompile(`^(FLANNEL-|flannel-)`), flannel},              // flannel, pkg/trafficmngr/iptables and nftables
	{regexp.MustCompile(`^(DOCKER|docker-)`), docker},                  // moby, libnetwork/drivers/bridge
	{regexp.MustCompile(`^ts-(input|forward|postrouting)`), tailscale}, // tailscale, util/linuxfw
	{regexp.MustCompile(`^wg-quick-`), wgQuick},                        // wireguard-tools, add_default
	{regexp.MustCompile(`^firewalld`), firewalld},                      // firewalld, core/nftables.py
	{regexp.MustCompile(`^ufw`), "ufw"},                                // ufw-before-input and the like
	{regexp.MustCompile(`^(LIBVIRT_|libvirt_)`), "libvirt"},            // libvirt, src/network
}

// ofName returns the first owner whose names include one, "" for none.
func ofName(owners []namedBy, name string) string {
	for _, o := range owners {
		if o.name.MatchString(name) {
			return o.owner
		}
	}
	return ""
}

// OfRule is who alone makes such a rule, for their own purpose; empty where several do.
func OfRule(r *snapshot.Rule) string {
	for _, o := range ruleOwners {
		if o.is(r) {
			return o.owner
		}
	}
	return ""
}

// OfTable is who alone uses a table, for their own purpose.
func OfTable(table int) string { return tableOwners[table] }

// OfRoute goes by the table and the protocol.
func OfRoute(r *snapshot.Route) string {
	return cmp.Or(OfTable(r.Table), protocolOwners[r.Protocol])
}

// OfChain goes by the chain first, as the tables of iptables are everybody's.
func OfChain(table, chain string) string {
	return cmp.Or(ofName(chainOwners, chain), ofName(chainOwners, table))
}

func isBetween(n, first, last int) bool { return first <= n && n <= last }

func isIn(n int, list ...int) bool { return slices.Contains(list, n) }
