package main

import (
	"slices"
	"time"

	"replypath/test/bench/contender"
	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

// slot is one measurement of a round.
type slot struct {
	workload  *load.Workload
	contender *contender.Contender
	// name is the contender's, or report.Again.
	name string
}

// plan is the slots of a round.
type plan struct {
	slots  []slot
	rounds int
	budget time.Duration     // 0 is no bound
	absent map[string]string // "workload: contender" to the reason why there is no such slot
}

// newPlan has every contender take its turn in each workload, and the first of them,
// the base, once more.
func newPlan(workloads []*load.Workload, contenders []*contender.Contender, rounds int, budget time.Duration) *plan {
	p := &plan{rounds: rounds, budget: budget, absent: make(map[string]string)}
	for _, w := range workloads {
		for _, c := range contenders {
			if w.Only != nil && !slices.Contains(w.Only, c.Name) {
				continue
			}
			if reason := c.Lacks(contender.Work{Flows: w.Flows, Program: w.SelfTimed, Forward: w.Forward}); reason != "" {
				p.absent[w.Name+": "+c.Name] = reason
				continue
			}
			p.slots = append(p.slots, slot{w, c, c.Name})
		}
		if base := contenders[0]; base.Name == contender.Static {
			p.slots = append(p.slots, slot{w, base, report.Again})
		}
	}
	return p
}

// another tells whether one more round begins, after so many that took so long, the
// last of them as given.
func (p *plan) another(done int, took, last time.Duration) bool {
	if done >= p.rounds {
		return false
	}
	return done == 0 || p.budget == 0 || took+last <= p.budget
}

// of returns the slots of a round, counted from 0: in each workload another contender is the
// first, as what one leaves to be cleared away is in the way of the next.
func (p *plan) of(round int) []slot {
	var slots []slot
	for rest := p.slots; len(rest) > 0; {
		end := slices.IndexFunc(rest, func(s slot) bool { return s.workload != rest[0].workload })
		if end < 0 {
			end = len(rest)
		}
		first := round % end
		slots = append(append(slots, rest[first:end]...), rest[:first]...)
		rest = rest[end:]
	}
	return slots
}
