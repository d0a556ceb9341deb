// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
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

// plan is the slots of a round, and how many rounds there are.
type plan struct {
	slots  []slot
	rounds int
	// further rounds have only the slots that bounds compare, decisive.
	further  int
	decisive []slot
	budget   time.Duration     // 0 is no bound
	absent   map[string]string // "workload: contender" to the reason why there is no such slot
}

// newPlan has every contender take its turn in each workload, and the first of them, the base, once more.
func newPlan(workloads []*load.Workload, contenders []*contender.Contender, o options) *plan {
	p := &plan{rounds: o.rounds, further: o.further, budget: o.budget, absent: make(map[string]string)}
	for _, w := range workloads {
		begin := len(p.slots)
		for _, c := range contenders {
			if w.Only != nil && !slices.Contains(w.Only, c.Name) {
				continue
			}
			if reason := c.Lacks(contender.Work{Flows: w.Flows, Forward: w.Forward, Origin: w.Origin}); reason != "" {
				p.absent[w.Name+": "+c.Name] = reason
				continue
			}
			p.slots = append(p.slots, slot{w, c, c.Name})
		}
		if base := contenders[0]; base.Name == contender.Static {
			p.slots = append(p.slots, slot{w, base, report.Again})
		}
		p.decisive = append(p.decisive, decisive(w, p.slots[begin:])...)
	}
	if len(p.decisive) == 0 {
		p.further = 0
		if o.quick && p.rounds == 1 {
			p.rounds = usualRounds
		}
	}
	return p
}

// decisive returns those slots of a workload that a bound compares.
func decisive(w *load.Workload, all []slot) []slot {
	var names []string
	for _, s := range all {
		names = append(names, s.name)
	}
	compared := report.Compared(w.Name, names)
	var chosen []slot
	for _, s := range all {
		if slices.Contains(compared, s.name) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// another tells whether one more round begins, after so many that took so long, each slot of the last one as given.
func (p *plan) another(done int, took, perSlot time.Duration) bool {
	if done >= p.rounds+p.further {
		return false
	}
	return done == 0 || p.budget == 0 || took+perSlot*time.Duration(len(p.inRound(done))) <= p.budget
}

// inRound returns the slots of a round, counted from 0, in the order of the plan.
func (p *plan) inRound(round int) []slot {
	if round < p.rounds {
		return p.slots
	}
	return p.decisive
}

// before is how many slots there are before a round.
func (p *plan) before(round int) int {
	whole := min(round, p.rounds)
	return whole*len(p.slots) + (round-whole)*len(p.decisive)
}

// of returns the slots of a round, those of a workload together, in the order of their turns.
func (p *plan) of(round int) [][]slot {
	var workloads [][]slot
	for rest := p.inRound(round); len(rest) > 0; {
		end := slices.IndexFunc(rest, func(s slot) bool { return s.workload != rest[0].workload })
		if end < 0 {
			end = len(rest)
		}
		workloads = append(workloads, shuffled(rest[:end], round, 0))
		rest = rest[end:]
	}
	return workloads
}

// shuffled returns things in an order of its own for each turn of each round, the same in every run: what
// one leaves to be cleared away is in the way of another one each time.
func shuffled[T any](things []T, round, turn int) []T {
	order := rand.New(rand.NewPCG(uint64(round), uint64(turn)))
	mixed := slices.Clone(things)
	order.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	return mixed
}
