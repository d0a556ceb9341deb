// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"

	"replypath/loader/doctor/bypass"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/health"
	"replypath/loader/doctor/peers"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/routing"
	"replypath/loader/doctor/settings"
	"replypath/loader/doctor/snapshot"
)

// check is one thing to look at. Its name is fixed.
type check struct {
	name string
	// says is what it finds, for the documentation.
	says string
	// fine is what stands in the place of findings where there are none.
	fine    string
	examine func(*snapshot.Host) []finding.Finding
}

// checks are in the order in which findings of the same severity are shown.
var checks = []check{
	{"managed", "which interfaces are managed; an error if there is none", "", health.ManagedInterfaces},
	{"attached", "a managed interface that lacks replypath's programs, although they were attached",
		"both programs are on every managed interface, or nothing is attached yet", health.MissingPrograms},
	{"pin-directory", "a pin directory that is not on a bpf file system, holds something else, or cannot be written to",
		"a start can pin its programs", health.PinPlaces},
	{"btf", "a kernel without BTF", "the kernel describes its types", health.KernelTypes},
	{"kernel", "a kernel that refuses programs, or lacks a feature that improves them (`features[]` of `status`)",
		"the kernel has all that replypath uses", health.KernelPrograms},
	{"capabilities", "capabilities that this process lacks", "this process has every capability that a start needs", health.Capabilities},
	{"configuration", "a datapath without a daemon; a file that has changed, is gone or wrong since it was loaded",
		"nothing is attached: what a start would read is examined", health.Configurations},
	{"missing-interface", "an interface that the configuration or the daemon's command line names, and that does not exist",
		"every interface that is named exists", health.MissingInterfaces},
	{"wrong-way", "replies that leave by the wrong interface now: only observed, or impossible to correct",
		"no reply was seen to leave by the wrong interface just now", health.WrongWays},
	{"rp-filter", "strict `rp_filter` on a managed interface", "no managed interface has ipv4", settings.RPFilter},
	{"reverse-path-rules", "nftables' `fib saddr . iif`, iptables' `rpfilter`, firewalld's `IPv6_rpfilter`",
		"no firewall rule checks the route back", bypass.ReversePathRules},
	{"default-route", "a family without a default route, or with one that is blackhole, unreachable or prohibit",
		"nothing to route: the managed interfaces have no address, or belong to vrfs", routing.DefaultRoutes},
	{"routed-interface", "a default route by an interface that is not managed, for example because the configuration does not name it",
		"no default route, or it is by a managed interface", routing.RoutedInterfaces},
	{"refusing-routes", "routes and rules that refuse packets to some peers (blackhole, unreachable, prohibit)",
		"no route or rule refuses peers", routing.RefusingRoutes},
	{"route-without-gateway", "a route to everywhere without a gateway: every peer becomes a neighbour",
		"every route to everywhere has a gateway", routing.RoutesWithoutGateway},
	{"own-gateway", "a route or a configured gateway that is an address of this host",
		"no gateway is this host itself", routing.OwnGateways},
	{"gateway", "a gateway that does not answer ARP or neighbour discovery", "no gateway is known", peers.SilentGateways},
	{"unnamed-router", "peers behind a router that no route of their interface names, while its routes to other networks name other routers",
		"no flow came through an unnamed router", peers.UnnamedRouters},
	{"arp-ignore", "`arp_ignore` with two interfaces in one network, a macvlan, or a virtual address on lo",
		"no two interfaces share a network or a wire, and no address is on lo only", settings.ARPIgnore},
	{"arp-announce", "`arp_announce` in the same cases",
		"no two interfaces share a network, and no address is on lo only", settings.ARPAnnounce},
	{"loopback-address", "addresses on lo or a dummy device only, and what `loopback_addresses` says of them",
		"no address is on lo or a dummy device only", settings.LoopbackAddresses},
	{"accept-local", "`accept_local` is on", "accept_local is off", settings.AcceptLocal},
	{"neighbour-table", "a neighbour table that is nearly full (`gc_thresh3`), or was full",
		"its limits are shown in the host's first network namespace only", settings.NeighbourTable},
	{"accept-redirects", "`accept_redirects` if replies have to go back through a load balancer (last-hop)",
		"no interface replies through a load balancer (last-hop)", settings.AcceptRedirects},
	{"send-redirects", "`send_redirects` on a load balancer (IPVS, or DNAT to a neighbour)",
		"this host is no load balancer", settings.SendRedirects},
	{"last-hop", "peers of the own network that arrive from another station's MAC: needs `next_hop: last-hop`",
		"no on-link peer arrives from another station's mac", peers.LastHop},
	{"needless-rules", "`ip rule from` an own address, whether anything still needs it, and its file",
		"no rule leads an own address to a table of its own", routing.NeedlessRules},
	{"needless-marks", "`ip rule fwmark` with connection marks that do replypath's work",
		"no rule sends replies back by a connection mark", routing.NeedlessMarks},
	{"rule-never-matches", "a rule with an own address and `iif` (or `dev`): it never matches",
		"no rule has an own address and an incoming interface", routing.RulesThatNeverMatch},
	{"udp-connect", "a UDP daemon that connects its wildcard socket (iperf3's server)",
		"no connected udp socket shares its port with a wildcard one", peers.ConnectedSockets},
	{"mtu", "managed interfaces with different MTUs", "all managed interfaces have the same mtu", bypass.MTUs},
	{"offloads", "segmentation offloads that one managed interface lacks",
		"all managed interfaces have the same segmentation offloads", bypass.Offloads},
	{"tc-programs", "programs and filters of others in the same TC hooks", "no program of others is in the tc hooks", bypass.OtherPrograms},
	{"outgoing-interface-rules", "firewall rules by the outgoing interface: they see the kernel's choice",
		"no firewall rule looks at the outgoing interface of replies", bypass.OutgoingRules},
	{"netdev-egress", "egress chains of netdev: moved replies bypass them", "no egress chain of netdev", bypass.EgressChains},
	{"legacy-iptables", "tables of iptables-legacy, which `doctor` cannot read", "iptables-legacy is not in use", bypass.LegacyTables},
	{"hw-tc-offload", "`hw-tc-offload` is on", "hw-tc-offload is off", bypass.HardwareTC},
	{"flowtable-offload", "a flow table with `flags offload`", "no flow table is offloaded to hardware", bypass.Flowtables},
	{"ipsec-offload", "IPsec packet offload", "no ipsec packet offload", bypass.OffloadedIPsec},
	{"sr-iov", "SR-IOV virtual functions", "no virtual functions", bypass.VirtualFunctions},
	{"xdp", "XDP programs, also those of AF_XDP", "no xdp program", bypass.XDPPrograms},
}

// needs are the parts of the host that a check cannot do without, of those that not everybody may read.
var needs = map[string][]string{
	"attached":                 {snapshot.PartPins, snapshot.PartHooks},
	"kernel":                   {snapshot.PartKernel},
	"configuration":            {snapshot.PartPins},
	"wrong-way":                {snapshot.PartPins, snapshot.PartTraffic},
	"reverse-path-rules":       {snapshot.PartFirewall},
	"gateway":                  {snapshot.PartGateways},
	"accept-redirects":         {snapshot.PartFlows},
	"send-redirects":           {snapshot.PartFirewall, snapshot.PartBalancer},
	"last-hop":                 {snapshot.PartFlows},
	"needless-rules":           {snapshot.PartFiles},
	"needless-marks":           {snapshot.PartFirewall},
	"tc-programs":              {snapshot.PartHooks},
	"outgoing-interface-rules": {snapshot.PartFirewall},
	"netdev-egress":            {snapshot.PartFirewall},
	"legacy-iptables":          {snapshot.PartFirewall},
	"flowtable-offload":        {snapshot.PartFirewall},
	"ipsec-offload":            {snapshot.PartOffloads},
}

// notLookedAt says in a check's place that it has nothing to go by.
func (c *check) notLookedAt(h *snapshot.Host) (finding.Finding, bool) {
	for _, part := range needs[c.name] {
		if takes, unread := h.Unread[part]; unread {
			return finding.Seen(finding.Warning, "", fmt.Sprintf("not looked at: to read %s takes %s", part, takes), remedy.AsRoot(&h.State)), true
		}
	}
	return finding.Finding{}, false
}
