// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"replypath/test/bench/contender"
	"replypath/test/bench/load"
)

const (
	longTime  = 500 * time.Millisecond
	shortTime = 300 * time.Millisecond
	// usualRounds is how often every contender has its turn.
	usualRounds = 5
	// shortBudget leaves room in five minutes for compiling and for what is measured beside the rounds.
	shortBudget = 200 * time.Second
	// warmUpShare is how much of the time of a measurement goes before it.
	warmUpShare = 5
)

// options are those of the command line.
type options struct {
	quick                 bool
	rounds, further       int
	duration, budget      time.Duration
	contenders, workloads string
	noFigures             bool
	output, page, commit  string
}

// shorten makes the run a quick one.
func (o *options) shorten() {
	o.quick, o.duration, o.budget = true, shortTime, shortBudget
	if o.rounds == usualRounds {
		o.rounds = 1 // what bounds compare gets the others
	}
}

func (o *options) warmUp() time.Duration { return o.duration / warmUpShare }

// chosenContenders are those that were named, or all; and those of them that the kernel cannot do, with the reason.
func (o *options) chosenContenders() (fit []*contender.Contender, absent map[string]string, err error) {
	chosen := contender.All()
	if o.contenders != "" {
		if chosen, err = contender.Named(strings.Fields(o.contenders)...); err != nil {
			return nil, nil, err
		}
	}
	return contender.Fit(chosen)
}

// chosenWorkloads are those that were named, or all, or all quick ones; and those
// of them that the machine cannot do, with the reason.
func (o *options) chosenWorkloads() (fit []*load.Workload, absent map[string]string, err error) {
	chosen := load.All()
	if o.workloads != "" {
		if chosen, err = load.Named(strings.Fields(o.workloads)...); err != nil {
			return nil, nil, err
		}
	} else if o.quick {
		chosen = quickOnes(chosen)
	}
	fit, absent = load.Fit(chosen)
	if len(fit) == 0 {
		return nil, nil, fmt.Errorf("no workload is left: %v", absent)
	}
	return fit, absent, nil
}

func quickOnes(all []*load.Workload) []*load.Workload {
	var quick []*load.Workload
	for _, w := range all {
		if w.Quick {
			quick = append(quick, w)
		}
	}
	return quick
}
