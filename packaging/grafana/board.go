// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 Grafana before 12 does not know the newer schema

package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// row is a line of the dashboard with the panels below it.
type row struct {
	title  string
	panels []cog.Builder[dashboard.Panel]
}

func board() *dashboard.DashboardBuilder {
	b := dashboard.NewDashboardBuilder("replypath").
		Uid(uid).
		Description("Replies that replypath sends back by the interface of their request: the fleet, then its hosts.").
		Tags([]string{"replypath", "network"}).
		Editable().
		Time("now-6h", "now").
		Refresh("1m").
		Timezone(common.TimeZoneBrowser).
		Tooltip(dashboard.DashboardCursorSyncCrosshair)
	for _, v := range variables() {
		b.WithVariable(v)
	}
	for _, r := range []row{fleet(), replies(), tables(), network(), host()} {
		b.WithRow(dashboard.NewRowBuilder(r.title))
		for _, p := range r.panels {
			b.WithPanel(p)
		}
	}
	return b
}

// uid is what links to the dashboard name.
const uid = "replypath"

// number gives panels the numbers that links and alerts know them by.
func number(panels []dashboard.PanelOrRowPanel) {
	for i, p := range panels {
		if id := uint32(i + 1); p.RowPanel != nil {
			p.RowPanel.Id = id
		} else {
			p.Panel.Id = &id
		}
	}
}

// source is the Prometheus that the reader chose.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

func variables() []cog.Builder[dashboard.VariableModel] {
	return []cog.Builder[dashboard.VariableModel]{
		dashboard.NewDatasourceVariableBuilder("datasource").
			Label("Data source").
			Description("The Prometheus that scrapes the hosts.").
			Type("prometheus"),
		// All jobs are those that are listed: up has others.
		choice("job", "Job", "The name of the scrape job.", "replypath_build_info"),
		choice("instance", "Host", "Hosts of the rows below the fleet's.", `replypath_build_info{`+ofFleet+`}`).AllValue(".*"),
		choice("interface", "Interface", "The interface. Of replies: the one that they belong to.", `replypath_interface_up{`+ofHost+`}`).AllValue(".*"),
	}
}

// choice is a variable with the values of a label, of which a reader chooses some.
func choice(label, title, about, series string) *dashboard.QueryVariableBuilder {
	const all = "$__all"
	return dashboard.NewQueryVariableBuilder(label).
		Label(title).
		Description(about).
		Datasource(source()).
		Query(dashboard.StringOrMap{String: cog.ToPtr("label_values(" + series + ", " + label + ")")}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).
		IncludeAll(true).
		Current(dashboard.VariableOption{
			Selected: cog.ToPtr(true),
			Text:     dashboard.StringOrArrayOfString{String: cog.ToPtr("All")},
			Value:    dashboard.StringOrArrayOfString{String: cog.ToPtr(all)},
		})
}
