// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"replypath/test/bench/contender"
	"replypath/test/bench/report"
)

const (
	// figuresTime bounds each group of figures.
	figuresTime = 5 * time.Minute
	// repeats is how often what takes a second or so is measured.
	repeats = 5
)

// group is figures that are measured together.
type group struct {
	name    string
	quick   bool
	measure func(context.Context) ([]report.Figure, error)
}

// groups lists what is measured beside the rounds, always of replypath alone.
func groups() []group {
	return []group{
		{"start", true, startFigures},
		{"programs", false, programFigures},
		{"interfaces", true, interfaceFigures},
		{"a million flows", false, crowdFigures},
	}
}

// measureFigures measures all groups, or the quick ones. A group that fails is noted.
func measureFigures(ctx context.Context, o options, bar *progress) ([]report.Figure, []report.Failure) {
	figures := []report.Figure{}
	var failures []report.Failure
	chosen := slices.DeleteFunc(groups(), func(g group) bool { return o.quick && !g.quick })
	for i, g := range chosen {
		bar.showFigures(i, len(chosen), g.name)
		found, err := g.run(ctx)
		figures = append(figures, found...)
		if err != nil {
			failures = append(failures, report.Failure{
				Workload: "figures: " + g.name, Contender: contender.Replypath, Error: err.Error(),
			})
		}
	}
	return figures, failures
}

func (g *group) run(ctx context.Context) ([]report.Figure, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, figuresTime, fmt.Errorf("not done in %s", figuresTime))
	defer cancel()
	return g.measure(ctx)
}
