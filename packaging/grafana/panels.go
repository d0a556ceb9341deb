// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// Sizes of panels on Grafana's grid of 24 columns.
const (
	narrow, low   = 4, 4
	third, medium = 8, 8
)

// Units that Grafana knows.
const (
	packets = "pps"
	bits    = "bps"
	flows   = "cps"
	share   = "percentunit"
	count   = "short"
)

// Which series a query is about, by the variables.
const (
	ofFleet     = `job=~"$job"`
	ofHost      = ofFleet + `, instance=~"$instance"`
	ofInterface = ofHost + `, interface=~"$interface"`
	ofReplies   = ofHost + `, to_interface=~"$interface"`
)

// query is an expression, and how its series are called.
type query struct{ expression, legend string }

func (q query) builder() *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).Expr(q.expression).LegendFormat(q.legend)
}

func metric(name, selector string) string { return "replypath_" + name + "{" + selector + "}" }

func rate(name, selector string) string {
	return "rate(" + metric(name, selector) + "[$__rate_interval])"
}

func sum(by, expression string) string { return "sum by (" + by + ") (" + expression + ")" }

// orZero has an expression that counts what is wrong say 0 where nothing is.
func orZero(expression string) string { return expression + " or vector(0)" }

// busiest are the ten largest of many hosts: more lines cannot be told apart.
func busiest(expression string) string { return "topk(10, " + expression + ")" }

// refs are the names of a panel's queries.
const refs = "ABCDEFGH"

// lines is a panel of values over time.
func lines(title, about, unit string, queries ...query) *timeseries.PanelBuilder {
	p := timeseries.NewPanelBuilder().
		Title(title).Description(about).Datasource(source()).
		Span(third).Height(medium).Unit(unit).Min(0).
		LineWidth(1).FillOpacity(10).ShowPoints(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().
			ShowLegend(true).DisplayMode(common.LegendDisplayModeTable).Placement(common.LegendPlacementBottom).
			Calcs([]string{"lastNotNull", "max"})).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
	for i, q := range queries {
		p.WithTarget(q.builder().RefId(refs[i : i+1]).Range())
	}
	return p
}

// stacked has the areas of a panel add up.
func stacked(p *timeseries.PanelBuilder) *timeseries.PanelBuilder {
	return p.FillOpacity(40).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
}

// figure is one number, as it is now. Above is the colour that it has from 1 on.
func figure(title, about, above string, q query) cog.Builder[dashboard.Panel] {
	return stat.NewPanelBuilder().
		Title(title).Description(about).Datasource(source()).
		Span(narrow).Height(low).Unit(count).
		Orientation(common.VizOrientationAuto).GraphMode(common.BigValueGraphModeNone).ColorMode(common.BigValueColorModeValue).
		Thresholds(thresholds("green", above, 1)).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		WithTarget(q.builder().RefId("A").Instant())
}

// states is a panel of bars that change their colour: of good where the value is 1, of bad where it is 0.
func states(title, about string, good, bad string, q query) *statetimeline.PanelBuilder {
	state := func(text, color string) dashboard.ValueMappingResult {
		return dashboard.ValueMappingResult{Text: &text, Color: &color}
	}
	return statetimeline.NewPanelBuilder().
		Title(title).Description(about).Datasource(source()).
		Span(third).Height(medium).
		ShowValue(common.VisibilityModeAuto).MergeValues(true).LineWidth(0).
		Mappings([]dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{
			Type:    dashboard.MappingTypeValueToText,
			Options: map[string]dashboard.ValueMappingResult{"1": state(good, "green"), "0": state(bad, "red")},
		}}}).
		WithTarget(q.builder().RefId("A").Range())
}

func thresholds(below, above string, from float64) *dashboard.ThresholdsConfigBuilder {
	return dashboard.NewThresholdsConfigBuilder().
		Mode(dashboard.ThresholdsModeAbsolute).
		Steps([]dashboard.Threshold{{Color: below}, {Color: above, Value: &from}})
}
