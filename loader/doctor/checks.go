// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"replypath/loader/doctor/checks"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/flows"
)

// check is one thing to look at. Its name is fixed.
type check struct {
	name string
	// says is what it finds, for the documentation.
	says string
	// fine is what stands in the place of findings where there are none.
	fine    string
	examine func(*snapshot.Host) []finding.Finding
	needs   parts // of the host that it cannot do without, of those that not everybody may read
}

type parts []string

// known are in the order in which findings of the same severity are shown.
var known = []check{
	{"facts", "what could not be read of this host; the checks that need it are left out", "everything could be read", checks.UnreadFacts, nil},
	{"addresses", "own addresses that no reply leaves from, and before the first start by which interface those of each leave",
		"the kernel refuses no reply", checks.OwnAddresses, parts{snapshot.PartPins}},
	{"managed", "which interfaces are managed; an error if there is none; bridges with one guest, which record requests for their own addresses only", "", checks.ManagedInterfaces, nil},
	{"attached", "that nothing is attached, or another `--pin-dir` has what is; a managed interface without replypath's programs, or with an `ingress` qdisc in their place",
		"both programs are on every managed interface", checks.MissingPrograms, parts{snapshot.PartPins, snapshot.PartHooks}},
	{"pin-directory", "a pin directory that is not on a bpf file system, holds something else, or cannot be written to",
		"a start can pin its programs", checks.PinPlaces, nil},
	{"btf", "a kernel without BTF", "the kernel describes its types", checks.KernelTypes, nil},
	{"kernel", "a kernel that refuses programs, or lacks a feature that improves them (`features[]` of `status`)",
		"the kernel has all that replypath uses", checks.KernelPrograms, parts{snapshot.PartKernel}},
	{"capabilities", "capabilities that this process lacks", "this process has every capability that a start needs", checks.Capabilities, nil},
	{"configuration", "a datapath without a daemon; a file that has changed, is gone or wrong since it was loaded",
		"nothing is attached: what a start would read is examined", checks.Configurations, parts{snapshot.PartPins}},
	{"trial", "a trial that nobody has confirmed in time, and nobody has taken back yet", "no trial is over", checks.EndedTrial, parts{snapshot.PartStatus}},
	{"daemon", "what the daemon could not do yet and tries again, or how it ended", "the daemon has nothing left to do", checks.DaemonTroubles, parts{snapshot.PartStatus}},
	{"flow-table", "a flow table that is nearly full, or had no place for a flow", "every flow has a place", checks.FullTables, parts{snapshot.PartStatus}},
	{"link", "a managed interface that is down", "every managed interface is up", checks.DownInterfaces, nil},
	{"missing-interface", "an interface that the configuration or the daemon's command line names, and that does not exist",
		"every interface that is named exists", checks.MissingInterfaces, nil},
	{flows.CheckGone, "an interface that had flows in the last day and is gone, or has no address left; a reload ends that",
		"every interface that had flows is there", checks.GoneInterfaces, parts{snapshot.PartPins, snapshot.PartStatus}},
	{"wrong-way", "replies that leave by the wrong interface now: only observed, or impossible to correct",
		"no reply was seen to leave by the wrong interface just now", checks.WrongWays, parts{snapshot.PartPins, snapshot.PartTraffic}},
	{flows.CheckUnanswered, "requests to a service that no reply was seen of within 3 s; an error while none is answered",
		"every request that somebody takes was answered lately", checks.Unanswered, parts{snapshot.PartPins, snapshot.PartStatus}},
	{"unnamed-tunnel", "a tunnel that `interfaces` does not name and that brought requests for others' addresses, or has none; a guest's bridge that this host forwards for",
		"no tunnel brought requests for addresses of other interfaces", checks.UnnamedTunnels, parts{snapshot.PartPins, snapshot.PartTraffic}},
	{"unrecorded-protocol", "requests by a tunnel's protocol or IPsec that `protocols` does not list, by another interface than the default route's",
		"no tunnel's protocol arrives that is not recorded", checks.UnrecordedProtocols, nil},
	{"rp-filter", "strict `rp_filter` on a managed interface", "no managed interface has ipv4", checks.RPFilter, nil},
	{"reverse-path-rules", "nftables' `fib saddr . iif`, iptables' `rpfilter`, firewalld's `IPv6_rpfilter`",
		"no firewall rule checks the route back", checks.ReversePathRules, parts{snapshot.PartFirewall}},
	{"default-route", "a family without a default route, or with one that is down, blackhole, unreachable or prohibit; an error where one was there",
		"nothing to route: the managed interfaces have no address, or belong to vrfs", checks.DefaultRoutes, nil},
	{"own-gateway", "a route or a configured gateway that is an address of this host",
		"no gateway is this host itself", checks.OwnGateways, nil},
	{"gateway", "a gateway that does not answer ARP or neighbour discovery", "no gateway is known", checks.SilentGateways, parts{snapshot.PartGateways}},
	{"no-gateway", "an interface with `next_hop: gateway` and without a gateway", "every interface that needs a gateway has one", checks.WithoutGateway, nil},
	{"unknown-gateway", "an interface without a known gateway: frames from a MAC that no neighbour has",
		"every gateway is known, or questions come from the mac of a neighbour", checks.UnknownGateways, parts{snapshot.PartFlows, snapshot.PartStatus}},
	{"sender", "replies that go back to their sender or as routed, as handshakes taught; a warning where none was completed",
		"replies go by the rule of next_hop", checks.Senders, parts{snapshot.PartFlows, snapshot.PartStatus}},
	{"arp-ignore", "`arp_ignore` with two interfaces in one network, a macvlan, or a virtual address on lo",
		"no two interfaces share a network or a wire, and no address is on lo only", checks.ARPIgnore, nil},
	{"loopback-address", "addresses on lo or a dummy device only, and what `loopback_addresses` says of them",
		"no address is on lo or a dummy device only", checks.LoopbackAddresses, nil},
	{"translated-address", "connections that are translated from an address that no interface has, and that nothing makes this host's: see `addresses`",
		"no connection is tracked that is translated from an address that is not served", checks.TranslatedAddresses, parts{snapshot.PartFirewall, snapshot.PartTracked}},
	{"last-hop", "peers of the own network that arrive from another station's MAC: `next_hop: last-hop` answers them by it",
		"no on-link peer arrives from another station's mac", checks.LastHop, parts{snapshot.PartFlows}},
	{"tc-programs", "programs and filters of others in the same TC hooks; what clsact keeps out", "no program of others is in the tc hooks", checks.OtherPrograms, parts{snapshot.PartHooks}},
	{"outgoing-interface-rules", "firewall rules by the outgoing interface: they see the kernel's choice, and may drop replies by it",
		"no firewall rule looks at the outgoing interface of replies", checks.OutgoingRules, parts{snapshot.PartFirewall}},
	{"legacy-iptables", "tables of iptables-legacy, which `doctor` cannot read", "iptables-legacy is not in use", checks.LegacyTables, parts{snapshot.PartFirewall}},
	{"xdp", "XDP programs, also those of AF_XDP", "no xdp program", checks.XDPPrograms, nil},
}
