// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"slices"

	"replypath/bpf"
	"replypath/loader/flows"
	"replypath/metrics"
)

// cause is the event, or the outcome for an interface pair, that a series counts, and the value of its last label.
type cause[E bpf.DatapathEvent | bpf.DatapathOutcome] struct {
	of            E
	name, meaning string
}

// nameOf is the value of the label for an event or outcome, "" where it is none of these.
func nameOf[E bpf.DatapathEvent | bpf.DatapathOutcome](causes []cause[E], of E) string {
	for i := range causes {
		if causes[i].of == of {
			return causes[i].name
		}
	}
	return ""
}

// meanings are the causes as the page has them.
func meanings[E bpf.DatapathEvent | bpf.DatapathOutcome](causes []cause[E]) (list []metrics.Reason) {
	for _, c := range causes {
		list = append(list, metrics.Reason{Name: c.name, Meaning: c.meaning})
	}
	return list
}

var uncorrectedReasons = []cause[bpf.DatapathOutcome]{
	{bpf.DatapathOutcomeOUTCOME_LINK_DOWN, "link_down", "the interface of the flow is down, has no carrier or is gone"},
	{bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, "no_next_hop", "no MAC is known to send to; with next_hop: gateway also if no gateway has a route to the peer, and none sent the request"},
	{bpf.DatapathOutcomeOUTCOME_MTU, "mtu", "too large for the flow's interface: once a second the sender gets an ICMP error; the rest goes as routed"},
	{bpf.DatapathOutcomeOUTCOME_NO_HEADER_ROOM, "no_header_room", "the flow's interface needs an Ethernet header, and the packet has no room for it: no memory, or more than 16 KiB"},
	{bpf.DatapathOutcomeOUTCOME_OBSERVE, "observe", "the interface of the flow is only observed"},
	{bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE, "bound_device", "the socket is bound to a device, and is not moved off it"},
	{bpf.DatapathOutcomeOUTCOME_REWRITE_FAILED, "rewrite_failed", "the kernel refused to rewrite the MAC addresses"},
}

// replyReasons are why replies go as routed.
var replyReasons = append(slices.Clip(uncorrectedReasons),
	cause[bpf.DatapathOutcome]{bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL, "unnamed_tunnel",
		"not replies but requests, for addresses of `from_interface`: `to_interface` is a tunnel that interfaces does not name"})

var lostReasons = []cause[bpf.DatapathOutcome]{
	{bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN, "link_down", "the interface of the flow is down by now, or gone"},
	{bpf.DatapathOutcomeOUTCOME_LOST, "unseen", "a program or filter there took the packet, or the kernel dropped it; counted with the next packet that is moved"},
}

// originatedReasons are why what the host originates goes as routed.
var originatedReasons = append(slices.Clip(uncorrectedReasons),
	cause[bpf.DatapathOutcome]{bpf.DatapathOutcomeOUTCOME_WEAK_HOST, "weak_host", "host_model: weak is in force on the interface that has the source address"})

var unparsedReasons = []cause[bpf.DatapathEvent]{
	{bpf.DatapathEventEVENT_UNPARSED_TRUNCATED, "truncated", "the packet ends within a header"},
	{bpf.DatapathEventEVENT_UNPARSED_MALFORMED, "malformed", "a header contradicts itself or the packet"},
	{bpf.DatapathEventEVENT_UNPARSED_EXTENSION_HEADERS, "extension_headers", "more IPv6 extension headers than are walked"},
	{bpf.DatapathEventEVENT_UNPARSED_FRAGMENT, "fragment", "not the first fragment of a packet: only that one has ports"},
	{bpf.DatapathEventEVENT_UNPARSED_SOURCE_ROUTE, "source_route", "a routing header says that the destination on the packet is not the last one"},
}

var ignoredReasons = []cause[bpf.DatapathEvent]{
	{bpf.DatapathEventEVENT_IGNORED_NOT_OWN, "not_own", "not addressed to this host: every SYN, and some of the other packets"},
	{bpf.DatapathEventEVENT_IGNORED_SOURCE, "source", "no flow with such addresses: unspecified, loopback, link-local, multicast, 255.255.255.255, or a peer that is this host"},
	{bpf.DatapathEventEVENT_IGNORED_LOOPBACK, "loopback", "addressed to an address that only lo or a dummy device has (loopback_addresses: kernel)"},
	{bpf.DatapathEventEVENT_IGNORED_EXCLUDED, "excluded", "excluded by the configuration"},
	{bpf.DatapathEventEVENT_IGNORED_PROTOCOL, "protocol", "a protocol that the configuration does not list"},
	{bpf.DatapathEventEVENT_IGNORED_IPSEC, "ipsec", "came out of an IPsec tunnel"},
	{bpf.DatapathEventEVENT_IGNORED_INTERFACE, "interface", "the interface is not managed any more"},
	{bpf.DatapathEventEVENT_IGNORED_MAC, "mac", "the source MAC is that of no single station"},
	{bpf.DatapathEventEVENT_IGNORED_ANSWER, "answer", "an answer to what this host had sent first"},
	{bpf.DatapathEventEVENT_IGNORED_HANDSHAKE, "handshake", "a TCP segment that should end a handshake and does not answer its SYN-ACK"},
	{bpf.DatapathEventEVENT_IGNORED_SEGMENT, "segment", "a TCP segment without an entry that no connected socket expects"},
	{bpf.DatapathEventEVENT_IGNORED_TUNNEL, "tunnel", "brought by a tunnel that interfaces does not name, for an address of another interface"},
	{bpf.DatapathEventEVENT_IGNORED_NO_SOCKET, "no_socket", "a TCP segment without an entry that no socket takes at all, counted once a minute or so for each pair of addresses and ports"},
}

var refusedReasons = []cause[bpf.DatapathEvent]{
	{bpf.DatapathEventEVENT_REFUSED_PINNED, "pinned", "follow: pinned keeps every flow where it began"},
	{bpf.DatapathEventEVENT_REFUSED_CONTESTED, "contested", "the packet gave no proof that the flow had moved, or a RST answered what was tried to find a way"},
}

var (
	pairLabels        = []string{"from_interface", "to_interface", "family", "protocol"}
	pairReasonLabels  = append(slices.Clip(pairLabels), "reason")
	pairOutcomeLabels = append(slices.Clip(pairLabels), "outcome")
)

// The metrics, in the order of the reference. The help of each says what it shows.
var (
	// By interface pair, but for the last three.
	AsymmetricPackets = metrics.Counter("asymmetric_packets_total",
		"Packets that the kernel would have sent by another interface or next hop than their flow's. Counted in both modes.", pairLabels...)
	AsymmetricFlows = metrics.Counter("asymmetric_flows_total",
		"Flows with at least one such packet. Counted in both modes.", pairLabels...)
	CorrectedPackets = metrics.Counter("corrected_packets_total",
		"Packets seen leaving by the interface of their flow after they were moved or re-addressed.", pairLabels...)
	CorrectedBytes = metrics.Counter("corrected_bytes_total",
		"Bytes of the corrected packets, as on the wire.", pairLabels...)
	CorrectedFlows = metrics.Counter("corrected_flows_total",
		"Flows with at least one corrected packet.", pairLabels...)
	UncorrectedPackets = metrics.Counter("uncorrected_packets_total",
		"Asymmetric packets that went on as the kernel sent them, by the reason why.", pairReasonLabels...).Because(meanings(replyReasons))
	LostPackets = metrics.Counter("lost_packets_total",
		"Packets that were moved and never seen leaving by the interface of their flow, by the reason why.", pairReasonLabels...).Because(meanings(lostReasons))
	OriginatedPackets = metrics.Counter("originated_packets_total",
		"Packets that this host originates with the address of another interface than the kernel chose. Counted in both modes.", pairOutcomeLabels...)
	OriginatedFlows = metrics.Counter("originated_flows_total",
		"Pairs of an own address and a peer of such packets, counted once for each protocol and outcome.", pairOutcomeLabels...)
	OriginatedRouted = metrics.Counter("originated_routed_packets_total",
		"Such packets that were left as routed, by the reason why.", pairReasonLabels...).Because(meanings(originatedReasons))
	UncountedPackets = metrics.Counter("uncounted_packets_total",
		"Asymmetric, corrected or originated packets that are missing above because the table of interface pairs was full.")
	UnparsedPackets = metrics.Counter("unparsed_packets_total",
		"Packets that passed untouched because they could not be read to the end.", "reason").Because(meanings(unparsedReasons))
	IgnoredPackets = metrics.Counter("ignored_packets_total",
		"Inbound packets that could have started a flow and did not, by the reason why.", "reason").Because(meanings(ignoredReasons))

	// Of flow tables, and of what flows learn.
	Flows = metrics.Gauge("flows",
		"Flows in the table that are not idle.", "table")
	LastingFlows = metrics.Gauge("lasting_flows",
		"Flows in the table that are handshakes, open connections or conversations. What ended takes the room of handshakes.", "table")
	FlowTableCapacity = metrics.Gauge("flow_table_capacity",
		"Lasting flows (in outbound: notes) that the table can hold. A full one forgets what was quiet longest.", "table")
	FlowAdmissions = metrics.Counter("flow_admissions_total",
		"Flows (in outbound: notes) that were entered into the table.", "table")
	FlowReadmissions = metrics.Counter("flow_readmissions_total",
		"Flows that were entered in mid-life: evicted before, or older than replypath on this host.", "table")
	FlowInsertFailures = metrics.Counter("flow_insert_failures_total",
		"Flows that could not be entered. Their replies go as the kernel routes them.", "table")
	FlowMoves = metrics.Counter("flow_moves_total",
		"Flows that moved to the interface or MAC that they arrived by later.", "protocol")
	FlowMovesRefused = metrics.Counter("flow_moves_refused_total",
		"Packets that arrived by another interface or MAC and did not move their flow, by the reason why.", "reason").Because(meanings(refusedReasons))
	WaysLearnt = metrics.Counter("ways_learnt_total",
		"Times that a handshake taught by which way replies through its sender arrive.", "way")
	SourceRepairs = metrics.Counter("source_repairs_total",
		"Answers of wildcard UDP sockets that were given the address that the request was sent to.", "family")

	// Of interfaces and gateways.
	InterfaceUp = metrics.Gauge("interface_up",
		"Whether the managed interface is up and has carrier. 0 under a configured name that no interface has.", "interface")
	InterfaceAttached = metrics.Gauge("interface_attached",
		"Whether a program is attached to the hook of the managed interface. 0 under a configured name that no interface has.", "interface", "hook", "mechanism")
	GatewayReachable = metrics.Gauge("gateway_reachable",
		"Whether the gateway's last genuine answer to the neighbour protocol still counts, also while its entry is held.",
		"interface", "family", "gateway")
	RPFilter = metrics.Gauge("rp_filter",
		"Effective reverse path filter of IPv4 on the interface: 0 off, 1 strict, 2 loose.", "interface")
	RPFilterDrops = metrics.Counter("rp_filter_drops_total",
		"Packets that the reverse path filter dropped in this network namespace, on any interface.")

	// Of the host.
	FallbackActive = metrics.Gauge("fallback_active",
		"Whether the fallback default route replaces a missing one.", "family")
	FallbackDropped = metrics.Counter("fallback_dropped_packets_total",
		"Packets that ended at the fallback default route, or at a gateway that has never answered: the host's own and forwarded ones.", "family")
	HostRepairs = metrics.Counter("host_repairs_total",
		"Times that something on the host was put back after others had removed or changed it.", "object")

	// Of what the daemon knows.
	Findings = metrics.Gauge("findings",
		"What the daemon itself knows to be wrong, or worth knowing, by the checks of replypath doctor. There is no series of what is not found.",
		"check", "severity")
	RecentRequests = metrics.Gauge("recent_requests",
		"Requests that arrived by the interface in the last ten minutes, by what became of the reply. It was seen leaving rightly or astray, "+
			"was moved and lost, or none was seen (unanswered). Looked at every 10 s at most.",
		"interface", "outcome")
	Mode = metrics.Gauge("mode",
		"1 for the mode in force.", "mode")
	ReloadSuccessful = metrics.Gauge("config_last_reload_successful",
		"Whether the latest attempt to read the configuration succeeded.")
	ReloadSuccessTime = metrics.Gauge("config_last_reload_success_timestamp_seconds",
		"When the configuration in force was read.")
	KernelFeature = metrics.Gauge("kernel_feature",
		"Whether the kernel has the feature. replypath status shows what its absence means.", "feature")
)

// eventFamilies show events that have a label of their own, and no interface pair.
var eventFamilies = map[*metrics.Family][]cause[bpf.DatapathEvent]{
	UnparsedPackets:  unparsedReasons,
	IgnoredPackets:   ignoredReasons,
	FlowMovesRefused: refusedReasons,
	WaysLearnt: {
		{of: bpf.DatapathEventEVENT_LEARNT_RULE, name: flows.WayRule},
		{of: bpf.DatapathEventEVENT_LEARNT_LAST_HOP, name: flows.WayLastHop},
		{of: bpf.DatapathEventEVENT_LEARNT_AS_ROUTED, name: flows.WayDirectReturn},
	},
	SourceRepairs:   {{of: bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4, name: "ipv4"}, {of: bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6, name: "ipv6"}},
	FallbackDropped: {{of: bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4, name: "ipv4"}, {of: bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6, name: "ipv6"}},
}
