// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// A pair of interfaces, and how it is called.
const (
	pair     = "instance, from_interface, to_interface"
	pairName = "{{instance}} {{from_interface}} → {{to_interface}}"
)

// replies are those of the chosen hosts that belong to the chosen interfaces.
func replies() row {
	perPair := func(name, label string) query {
		return query{sum(pair+", "+label, rate(name, ofReplies)), pairName + " {{" + label + "}}"}
	}
	return row{"Hosts: replies", []cog.Builder[dashboard.Panel]{
		lines("Corrected replies", "From the interface that the kernel chose, to the one that the request arrived by.",
			packets, query{sum(pair, rate("corrected_packets_total", ofReplies)), pairName}),
		lines("Replies not corrected", "They left by the first interface instead of the second. The reason says why.",
			packets, perPair("uncorrected_packets_total", "reason")),
		lines("Lost replies", "They were moved to the second interface and not seen to leave there. Connections stall.",
			packets, perPair("lost_packets_total", "reason")),
		lines("Originated from the wrong interface",
			"This host began these with the second interface's address; the kernel chose the first. moved: they are related, or host_model is strong.",
			packets, perPair("originated_packets_total", "outcome")),
		stacked(lines("Asymmetric replies, by protocol", "Replies that the kernel would send by the wrong interface, in every mode.",
			packets, query{sum("family, protocol", rate("asymmetric_packets_total", ofReplies)), "{{family}} {{protocol}}"})),
		lines("Corrected traffic", "Bits of the corrected replies, as on the wire.",
			bits, query{"8 * " + sum(pair, rate("corrected_bytes_total", ofReplies)), pairName}),
	}}
}

// tables are what remembers the flows.
func tables() row {
	perTable := func(what, name string) query {
		return query{sum("instance, table", rate(name, ofHost)), "{{instance}} {{table}} " + what}
	}
	return row{"Hosts: flow tables", []cog.Builder[dashboard.Panel]{
		lines("Tables, used", "Share of each flow table that is in use. A full table forgets quiet flows.", share,
			query{metric("flows", ofHost) + " / " + metric("flow_table_capacity", ofHost), "{{instance}} {{table}}"}).Max(1),
		lines("Flows that begin", "New flows, by table. In outbound: what the host itself began.", flows,
			perTable("new", "flow_admissions_total"), perTable("in mid-life", "flow_readmissions_total")),
		lines("Flows that found no room", "Evicted: a new flow took the place of an old one. Refused: a new flow found no place.", flows,
			perTable("evicted", "flow_evictions_total"), perTable("refused", "flow_insert_failures_total")),
		lines("Flows that move", "Flows that moved to another interface or MAC, and packets whose move was refused. Many refusals: an attack, or two routes to one peer.", flows,
			query{sum("instance, protocol", rate("flow_moves_total", ofHost)), "{{instance}} {{protocol}} moved"},
			query{sum("instance, reason", rate("flow_moves_refused_total", ofHost)), "{{instance}} refused: {{reason}}"}),
		lines("Packets that cannot be read", "They pass untouched. The reason says which part of the packet is at fault.", packets,
			query{sum("instance, reason", rate("unparsed_packets_total", ofHost)), "{{instance}} {{reason}}"}),
		lines("Packets that begin no flow", "Inbound packets that are left alone, by reason.", packets,
			query{sum("instance, reason", rate("ignored_packets_total", ofHost)), "{{instance}} {{reason}}"}),
	}}
}

// network is what replies need to leave.
func network() row {
	return row{"Hosts: gateways and interfaces", []cog.Builder[dashboard.Panel]{
		states("Gateways", "Whether each gateway answers ARP or neighbour discovery.", "answers", "silent",
			query{metric("gateway_reachable", ofInterface), "{{instance}} {{interface}} {{gateway}}"}),
		states("Interfaces", "Whether each interface is up with carrier. One that does not exist is down.", "up", "down",
			query{metric("interface_up", ofInterface), "{{instance}} {{interface}}"}),
		states("Programs", "Whether both programs are attached to each interface.", "attached", "missing",
			query{"min by (instance, interface) (" + metric("interface_attached", ofInterface) + ")", "{{instance}} {{interface}}"}),
		lines("Faults bridged: silent gateways", "Gateways that are silent now. A default gateway is held meanwhile: replies are still built.", count,
			query{"sum by (instance, interface) (1 - " + metric("gateway_reachable", ofInterface) + ")", "{{instance}} {{interface}}"}),
		states("Faults bridged: default route", "Whether the default route is there. While it is missing, the fallback route replaces it for replies.", "there", "replaced",
			query{"1 - " + metric("fallback_active", ofHost), "{{instance}} {{family}}"}),
		lines("Packets without a route", "They ended at the fallback route: what the host itself sends while its default route is missing.", packets,
			query{rate("fallback_dropped_packets_total", ofHost), "{{instance}} {{family}}"}),
	}}
}

// host is what replypath is and does on a host.
func host() row {
	return row{"Hosts: state", []cog.Builder[dashboard.Panel]{
		lines("Host repairs", "Times that replypath put something back that others took away. A steady rate is a fight.", count,
			query{sum("instance, object", "increase("+metric("host_repairs_total", ofHost)+"[$__rate_interval])"), "{{instance}} {{object}}"}),
		states("Mode", "What the host does with asymmetric replies: move them, or only count them.", "enforce", "observe",
			query{metric("mode", ofHost+`, mode="enforce"`), "{{instance}}"}),
		states("Configuration", "Whether the latest reload was accepted. If not, the old configuration is in force.", "accepted", "refused",
			query{metric("config_last_reload_successful", ofHost), "{{instance}}"}),
		lines("Requests dropped by rp_filter", "Packets that the kernel's reverse path filter dropped, on any interface of the host.", packets,
			query{rate("rp_filter_drops_total", ofHost), "{{instance}}"}),
		lines("Source repairs", "Replies of UDP servers that got the address which the request was sent to.", packets,
			query{sum("instance, family", rate("source_repairs_total", ofHost)), "{{instance}} {{family}}"}),
		stacked(lines("Versions of the chosen hosts", "The version that each host runs.", count,
			query{"count by (instance, version) (" + metric("build_info", ofHost) + ")", "{{instance}} {{version}}"})),
	}}
}
