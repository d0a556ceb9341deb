// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"

	"replypath/test/await"
	"replypath/test/bench/contender"
	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

func namesOf(p *plan) []string {
	var names []string
	for _, s := range p.slots {
		names = append(names, s.workload.Name+" "+s.name)
	}
	return names
}

// TestPlanOrder has every contender take its turn before the first comes again.
func TestPlanOrder(t *testing.T) {
	contenders, err := contender.Named("static", "iprule-2", "replypath-observe")
	await.Must(t, err)
	p := newPlan([]*load.Workload{{Name: "one"}, {Name: "two", Only: []string{"static", "iprule-2"}}}, contenders, options{rounds: 3})
	want := []string{
		"one static", "one iprule-2", "one replypath-observe", "one " + report.Again,
		"two static", "two iprule-2", "two " + report.Again,
	}
	await.Same(t, "a round", want, namesOf(p))
	await.Same(t, "what is measured again", "static", p.slots[3].contender.Name)
}

// TestPlanFurther has only those measured again that a bound compares, the redirect, and the noise.
func TestPlanFurther(t *testing.T) {
	contenders, err := contender.Named("static", "none", "iprule-2", "replypath", "constants")
	await.Must(t, err)
	workloads := []*load.Workload{{Name: "tcp-crr"}, {Name: "tcp-rr", Only: []string{"static", "none"}}, {Name: "udp-echo-1400"}}
	p := newPlan(workloads, contenders, options{rounds: 2, further: 3})
	want := []string{"tcp-crr constants", "tcp-crr iprule-2", "tcp-crr replypath", "tcp-crr static", "tcp-crr " + report.Again}
	await.Same(t, "a further round", want, slices.Sorted(slices.Values(namesOf(&plan{slots: slices.Concat(p.of(5)...)}))))
	await.Same(t, "slots before the third further round", 2*len(p.slots)+2*len(want), p.before(4))
	if p = newPlan(workloads[2:], contenders, options{rounds: 2, further: 3}); p.another(2, 0, 0) {
		t.Error("where there is no bound, there are further rounds")
	}
}

// TestQuick has the workloads that scripts know by name in a quick run.
func TestQuick(t *testing.T) {
	o := options{rounds: usualRounds}
	o.shorten()
	workloads, _, err := o.chosenWorkloads()
	await.Must(t, err)
	var names []string
	for _, w := range workloads {
		names = append(names, w.Name)
	}
	await.Same(t, "a quick run", []string{"udp-echo-64", "tcp-rr", "tcp-crr", "tcp-bulk", "tcp-crr-beside"}, names)
	await.Same(t, "rounds of everything, as what bounds compare gets few", 1, o.rounds)
}

// TestContenderNames has the contenders that scripts know by name, measured or not.
func TestContenderNames(t *testing.T) {
	var names []string
	for _, c := range contender.All() {
		names = append(names, c.Name)
	}
	for _, name := range []string{
		"static", "none", "iprule-2", "iprule-10", "iprule-100", "iprule-1000", "connmark", "connmark-vmap", "vrf",
		"replypath", "replypath-clsact", "replypath-observe",
	} {
		if !slices.Contains(names, name) {
			t.Errorf("no contender %s", name)
		}
	}
}
