// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/table"
)

// fleet is about all hosts of the jobs, whichever hosts the reader has chosen.
func fleet() row {
	byHost := func(name string) query { return query{busiest(sum("instance", rate(name, ofFleet))), "{{instance}}"} }
	return row{"Fleet", []cog.Builder[dashboard.Panel]{
		figure("Hosts", "Hosts whose replypath answers Prometheus.", "green",
			query{`count(` + metric("build_info", ofFleet) + `)`, ""}),
		figure("Not scraped", "Hosts that Prometheus cannot reach. Replies go on there; nobody follows changes.", "red",
			query{orZero(`count(up{` + ofFleet + `} == 0)`), ""}),
		figure("Mode", "Hosts in each mode. Only enforce moves replies.", "blue",
			query{sum("mode", metric("mode", ofFleet)), "{{mode}}"}),
		figure("Not attached", "Interfaces that lack a program. Their replies go as routed.", "red",
			query{orZero(`count(count by (instance, interface) (` + metric("interface_attached", ofFleet) + ` == 0))`), ""}),
		figure("Gateways silent", "Gateways that do not answer ARP or neighbour discovery.", "orange",
			query{orZero(`count(` + metric("gateway_reachable", ofFleet) + ` == 0)`), ""}),
		figure("Alerts", "Alerts of replypath that fire now, of all jobs.", "red",
			query{orZero(`count(ALERTS{alertname=~"Replypath.+", alertstate="firing"})`), ""}),
		lines("Corrected replies, busiest hosts", "Replies that left by the interface of their request, and would not have.",
			packets, byHost("corrected_packets_total")),
		stacked(lines("Replies not corrected, by reason", "Replies that left by the wrong interface. With the reason observe, replypath only watches.",
			packets, query{sum("reason", rate("uncorrected_packets_total", ofFleet)), "{{reason}}"})),
		lines("Lost replies, by host", "Replies that were moved and not seen to leave. Anything above 0 for long is a fault.",
			packets, byHost("lost_packets_total")),
		hosts(),
		stacked(lines("Versions", "Hosts that run each version.", count,
			query{`count by (version) (` + metric("build_info", ofFleet) + `)`, "{{version}}"})),
	}}
}

// hosts is a table with a line for each host. A click on a host chooses it.
func hosts() cog.Builder[dashboard.Panel] {
	increase := func(name string) string {
		return sum("instance", "increase("+metric(name, ofFleet)+"[$__range])")
	}
	columns := []struct{ title, expression string }{
		{"", sum("instance, mode, version",
			"("+metric("mode", ofFleet)+" == 1) * on (job, instance) group_left (version) "+metric("build_info", ofFleet))},
		{"Corrected", increase("corrected_packets_total")},
		{"Not corrected", increase("uncorrected_packets_total")},
		{"Lost", increase("lost_packets_total")},
		{"Repairs", increase("host_repairs_total")},
	}
	names := map[string]string{"instance": "Host", "mode": "Mode", "version": "Version"}
	p := table.NewPanelBuilder().
		Title("Hosts").Description("What each host did in the time that is shown. A click on a host shows it below.").
		Datasource(source()).Span(2 * third).Height(medium).Unit(count).Decimals(0)
	for i, c := range columns {
		ref := refs[i : i+1]
		names["Value #"+ref] = c.title
		p.WithTarget(query{expression: c.expression}.builder().RefId(ref).Instant().Format("table"))
	}
	return p.
		WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}}).
		WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
			"excludeByName": map[string]bool{"Time": true, "Value #A": true},
			"renameByName":  names,
		}}).
		SortBy([]cog.Builder[common.TableSortByFieldState]{
			common.NewTableSortByFieldStateBuilder().DisplayName("Lost").Desc(true)}).
		OverrideByName("Host", []dashboard.DynamicConfigValue{{Id: "links", Value: []map[string]string{{
			"title": "Show this host",
			"url":   "/d/" + uid + "?${datasource:queryparam}&${job:queryparam}&var-instance=${__value.raw}&${__url_time_range}",
		}}}})
}
