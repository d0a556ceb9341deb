// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// family is a metric with its labels. docs/METRICS.md is made from what is exported.
type family struct {
	Name   string
	Type   string // "counter" or "gauge"
	Labels []string
	Help   string
	// Reasons are the values of the label reason, where there is one.
	Reasons []reason

	valueType prometheus.ValueType
	desc      *prometheus.Desc
}

// families holds every metric, in the order in which they are declared below, which is that of the reference.
var families []*family

// reason is a value of the label reason.
type reason struct {
	Name    string
	Meaning string
}

var uncorrectedReasons = []reason{
	{"link_down", "the interface of the flow is down, has no carrier or is gone"},
	{"no_next_hop", "no MAC is known to send to; with next_hop: gateway also if no gateway has a route to the peer, and none sent the request"},
	{"mtu", "too large for the flow's interface: once a second the sender gets an ICMP error; the rest goes as routed"},
	{"no_header_room", "the flow's interface needs an Ethernet header, and the packet has no room for it: no memory, or more than 16 KiB"},
	{"observe", "the interface of the flow is only observed"},
	{"bound_device", "the socket is bound to a device, and is not moved off it"},
	{"rewrite_failed", "the kernel refused to rewrite the MAC addresses"},
}

// replyReasons are why replies go as routed.
var replyReasons = append(slices.Clip(uncorrectedReasons),
	reason{"unnamed_tunnel", "not replies but requests, for addresses of `from_interface`: `to_interface` is a tunnel that interfaces does not name"})

var lostReasons = []reason{
	{"link_down", "the interface of the flow is down by now, or gone"},
	{"unseen", "a program or filter there took the packet, or the kernel dropped it; counted with the next packet that is moved"},
}

// originatedReasons are why what the host originates goes as routed.
var originatedReasons = append(slices.Clip(uncorrectedReasons),
	reason{"weak_host", "host_model: weak is in force on the interface that has the source address"})

var unparsedReasons = []reason{
	{"truncated", "the packet ends within a header"},
	{"malformed", "a header contradicts itself or the packet"},
	{"extension_headers", "more IPv6 extension headers than are walked"},
	{"fragment", "not the first fragment of a packet: only that one has ports"},
	{"source_route", "a routing header says that the destination on the packet is not the last one"},
}

var ignoredReasons = []reason{
	{"not_own", "not addressed to this host: every SYN, and some of the other packets"},
	{"source", "no flow with such addresses: unspecified, loopback, link-local, multicast, 255.255.255.255, or a peer that is this host"},
	{"loopback", "addressed to an address that only lo or a dummy device has (loopback_addresses: kernel)"},
	{"excluded", "excluded by the configuration"},
	{"protocol", "a protocol that the configuration does not list"},
	{"ipsec", "came out of an IPsec tunnel"},
	{"interface", "the interface is not managed any more"},
	{"mac", "the source MAC is that of no single station"},
	{"answer", "an answer to what this host had sent first"},
	{"handshake", "a TCP segment that should end a handshake and does not answer its SYN-ACK"},
	{"segment", "a TCP segment without an entry that no connected socket expects"},
	{"tunnel", "brought by a tunnel that interfaces does not name, for an address of another interface"},
	{"no_socket", "a TCP segment without an entry that no socket takes at all, counted once a minute or so for each pair of addresses and ports"},
}

var refusedReasons = []reason{
	{"pinned", "follow: pinned keeps every flow where it began"},
	{"contested", "the packet gave no proof that the flow had moved, or a RST answered what was tried to find a way"},
}

var (
	pairLabels        = []string{"from_interface", "to_interface", "family", "protocol"}
	pairReasonLabels  = append(slices.Clip(pairLabels), "reason")
	pairOutcomeLabels = append(slices.Clip(pairLabels), "outcome")
)

var (
	asymmetricPackets = counter("asymmetric_packets_total",
		"Packets that the kernel would have sent by another interface or next hop than their flow's. Counted in both modes.", pairLabels...)
	asymmetricFlows = counter("asymmetric_flows_total",
		"Flows with at least one such packet. Counted in both modes.", pairLabels...)
	correctedPackets = counter("corrected_packets_total",
		"Packets seen leaving by the interface of their flow after they were moved or re-addressed.", pairLabels...)
	correctedBytes = counter("corrected_bytes_total",
		"Bytes of the corrected packets, as on the wire.", pairLabels...)
	correctedFlows = counter("corrected_flows_total",
		"Flows with at least one corrected packet.", pairLabels...)
	uncorrectedPackets = counter("uncorrected_packets_total",
		"Asymmetric packets that went on as the kernel sent them, by the reason why.", pairReasonLabels...).because(replyReasons)
	lostPackets = counter("lost_packets_total",
		"Packets that were moved and never seen leaving by the interface of their flow, by the reason why.", pairReasonLabels...).because(lostReasons)
	originatedPackets = counter("originated_packets_total",
		"Packets that this host originates with the address of another interface than the kernel chose. Counted in both modes.", pairOutcomeLabels...)
	originatedFlows = counter("originated_flows_total",
		"Pairs of an own address and a peer of such packets, counted once for each protocol and outcome.", pairOutcomeLabels...)
	originatedRouted = counter("originated_routed_packets_total",
		"Such packets that were left as routed, by the reason why.", pairReasonLabels...).because(originatedReasons)
	uncountedPackets = counter("uncounted_packets_total",
		"Asymmetric, corrected or originated packets that are missing above because the table of interface pairs was full.")
	unparsedPackets = counter("unparsed_packets_total",
		"Packets that passed untouched because they could not be read to the end.", "reason").because(unparsedReasons)
	ignoredPackets = counter("ignored_packets_total",
		"Inbound packets that could have started a flow and did not, by the reason why.", "reason").because(ignoredReasons)

	flows = gauge("flows",
		"Flows in the table that are not idle.", "table")
	lastingFlows = gauge("lasting_flows",
		"Flows in the table that are handshakes, open connections or conversations. What ended takes the room of handshakes.", "table")
	flowTableCapacity = gauge("flow_table_capacity",
		"Lasting flows (in outbound: notes) that the table can hold. A full one forgets what was quiet longest.", "table")
	flowAdmissions = counter("flow_admissions_total",
		"Flows (in outbound: notes) that were entered into the table.", "table")
	flowReadmissions = counter("flow_readmissions_total",
		"Flows that were entered in mid-life: evicted before, or older than replypath on this host.", "table")
	flowInsertFailures = counter("flow_insert_failures_total",
		"Flows that could not be entered. Their replies go as the kernel routes them.", "table")
	flowMoves = counter("flow_moves_total",
		"Flows that moved to the interface or MAC that they arrived by later.", "protocol")
	flowMovesRefused = counter("flow_moves_refused_total",
		"Packets that arrived by another interface or MAC and did not move their flow, by the reason why.", "reason").because(refusedReasons)
	waysLearnt = counter("ways_learnt_total",
		"Times that a handshake taught by which way replies through its sender arrive.", "way")
	sourceRepairs = counter("source_repairs_total",
		"Answers of wildcard UDP sockets that were given the address that the request was sent to.", "family")

	interfaceUp = gauge("interface_up",
		"Whether the managed interface is up and has carrier. 0 under a configured name that no interface has.", "interface")
	interfaceAttached = gauge("interface_attached",
		"Whether a program is attached to the hook of the managed interface. 0 under a configured name that no interface has.", "interface", "hook", "mechanism")
	gatewayReachable = gauge("gateway_reachable",
		"Whether the gateway's last genuine answer to the neighbour protocol still counts, also while its entry is held.",
		"interface", "family", "gateway")
	rpFilter = gauge("rp_filter",
		"Effective reverse path filter of IPv4 on the interface: 0 off, 1 strict, 2 loose.", "interface")
	rpFilterDrops = counter("rp_filter_drops_total",
		"Packets that the reverse path filter dropped in this network namespace, on any interface.")

	fallbackActive = gauge("fallback_active",
		"Whether the fallback default route replaces a missing one.", "family")
	fallbackDropped = counter("fallback_dropped_packets_total",
		"Packets that ended at the fallback default route, or at a gateway that has never answered: the host's own and forwarded ones.", "family")
	hostRepairs = counter("host_repairs_total",
		"Times that something on the host was put back after others had removed or changed it.", "object")

	findings = gauge("findings",
		"What the daemon itself knows to be wrong, or worth knowing, by the checks of replypath doctor. There is no series of what is not found.",
		"check", "severity")
	recentRequests = gauge("recent_requests",
		"Requests that arrived by the interface in the last ten minutes, by what became of the reply. It was seen leaving rightly or astray, "+
			"was moved and lost, or none was seen (unanswered). Looked at every 10 s at most.",
		"interface", "outcome")
	mode = gauge("mode",
		"1 for the mode in force.", "mode")
	reloadSuccessful = gauge("config_last_reload_successful",
		"Whether the latest attempt to read the configuration succeeded.")
	reloadSuccessTime = gauge("config_last_reload_success_timestamp_seconds",
		"When the configuration in force was read.")
	kernelFeature = gauge("kernel_feature",
		"Whether the kernel has the feature. replypath status shows what its absence means.", "feature")
	buildInfo = gauge("build_info",
		"1, with the version of replypath and of Go as labels.", "version", "goversion")
)

func counter(name, help string, labels ...string) *family {
	return newFamily(prometheus.CounterValue, "counter", name, help, labels)
}

func gauge(name, help string, labels ...string) *family {
	return newFamily(prometheus.GaugeValue, "gauge", name, help, labels)
}

func newFamily(valueType prometheus.ValueType, typeName, name, help string, labels []string) *family {
	name = "replypath_" + name
	f := &family{
		Name: name, Type: typeName, Labels: labels, Help: help,
		valueType: valueType, desc: prometheus.NewDesc(name, help, labels, nil),
	}
	families = append(families, f)
	return f
}

func (f *family) because(reasons []reason) *family {
	f.Reasons = reasons
	return f
}
