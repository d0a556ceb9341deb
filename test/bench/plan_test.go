// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

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
	if got := namesOf(p); !slices.Equal(got, want) {
		t.Errorf("a round has %q, want %q", got, want)
	}
	if again := p.slots[3]; again.contender.Name != "static" {
		t.Errorf("%s measures %s", again.name, again.contender.Name)
	}
}

// TestPlanShuffles has each contender go before every other one, in rounds and in turns, in an order that
// is the same in every run. The workloads keep theirs.
func TestPlanShuffles(t *testing.T) {
	contenders, err := contender.Named("static", "iprule-2")
	await.Must(t, err)
	const times = 60
	p := newPlan([]*load.Workload{{Name: "one"}, {Name: "two", Only: []string{"iprule-2"}}}, contenders, options{rounds: times})
	before := make(map[[2]string]int)
	for time := range times {
		rounds, again := p.of(time), p.of(time)
		if got := namesOf(&plan{slots: slices.Concat(again...)}); !slices.Equal(got, namesOf(&plan{slots: slices.Concat(rounds...)})) {
			t.Errorf("round %d has another order the next time: %q", time, got)
		}
		if len(rounds) != 2 || rounds[0][0].workload.Name != "one" || rounds[1][0].workload.Name != "two" {
			t.Fatalf("round %d has %d workloads", time, len(rounds))
		}
		for _, slots := range [][]slot{rounds[0], shuffled(rounds[0], 0, time)} {
			if len(slots) != 3 {
				t.Fatalf("round %d has %d slots of the first workload", time, len(slots))
			}
			for i, next := range slots[1:] {
				before[[2]string{slots[i].name, next.name}]++
			}
		}
	}
	// Of 240 pairs of neighbours each of 6 is there 40 times, give or take 6.
	for _, first := range []string{"static", "iprule-2", report.Again} {
		for _, next := range []string{"static", "iprule-2", report.Again} {
			if n := before[[2]string{first, next}]; first != next && n < times/3 {
				t.Errorf("%s comes next to %s %d times of %d", next, first, n, 4*times)
			}
		}
	}
}

func TestPlanWithoutBase(t *testing.T) {
	contenders, err := contender.Named("iprule-2")
	await.Must(t, err)
	p := newPlan([]*load.Workload{{Name: "one"}}, contenders, options{rounds: 1})
	if got := namesOf(p); !slices.Equal(got, []string{"one iprule-2"}) {
		t.Errorf("a round has %q", got)
	}
}

// TestPlanFurther has only those measured again that a bound compares, the redirect, and the noise.
func TestPlanFurther(t *testing.T) {
	contenders, err := contender.Named("static", "none", "iprule-2", "replypath", "constants")
	await.Must(t, err)
	workloads := []*load.Workload{{Name: "tcp-crr"}, {Name: "tcp-rr", Only: []string{"static", "none"}}, {Name: "udp-echo-1400"}}
	p := newPlan(workloads, contenders, options{rounds: 2, further: 3})
	want := []string{"tcp-crr constants", "tcp-crr iprule-2", "tcp-crr replypath", "tcp-crr static", "tcp-crr " + report.Again}
	if got := slices.Sorted(slices.Values(namesOf(&plan{slots: slices.Concat(p.of(5)...)}))); !slices.Equal(got, want) {
		t.Errorf("a further round has %q, want %q", got, want)
	}
	if got, want := p.before(4), 2*len(p.slots)+2*len(want); got != want {
		t.Errorf("%d slots before the third further round, want %d", got, want)
	}
	if p = newPlan(workloads[2:], contenders, options{rounds: 2, further: 3}); p.another(2, 0, 0) {
		t.Error("where there is no bound, there are further rounds")
	}
}

func TestPlanBudget(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		name       string
		rounds     int
		budget     time.Duration
		done       int
		took, slot time.Duration
		want       bool
	}{
		{"first", 3, second, 0, 0, 0, true},
		{"no budget", 3, 0, 2, 100 * second, 50 * second, true},
		{"all rounds", 3, 0, 3, second, second, false},
		{"fits", 3, 10 * second, 1, 5 * second, second, true},
		{"does not fit", 3, 10 * second, 2, 6 * second, second, false},
		{"a further one fits", 2, 10 * second, 2, 6 * second, second, true},
		{"all further ones", 2, 0, 4, second, second, false},
	} {
		p := &plan{slots: make([]slot, 5), rounds: c.rounds, budget: c.budget}
		if strings.Contains(c.name, "further") {
			p.decisive, p.further = make([]slot, 4), 2
		}
		if got := p.another(c.done, c.took, c.slot); got != c.want {
			t.Errorf("%s: another round: %t, want %t", c.name, got, c.want)
		}
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
	if want := []string{"udp-echo-64", "tcp-rr", "tcp-crr", "tcp-bulk", "tcp-crr-beside"}; !slices.Equal(names, want) {
		t.Errorf("a quick run has %q, want %q", names, want)
	}
	if o.rounds != 1 {
		t.Errorf("%d rounds of everything: what bounds compare gets few", o.rounds)
	}
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

func TestUnknownNames(t *testing.T) {
	o := options{workloads: "udp-echo-64 nonsense", contenders: "static nonsense"}
	if _, _, err := o.chosenWorkloads(); err == nil {
		t.Error("an unknown workload is no error")
	}
	if _, _, err := o.chosenContenders(); err == nil {
		t.Error("an unknown contender is no error")
	}
}

func TestProgressLine(t *testing.T) {
	begun := time.Now()
	s := slot{workload: &load.Workload{Name: "udp-echo-64"}, name: "static"}
	p := &plan{slots: make([]slot, 10), rounds: 2}
	bar := &progress{plan: p, begun: begun, now: func() time.Time { return begun.Add(30 * time.Second) }}
	const want = "[##########..........]  50 %  30s left  round 2  udp-echo-64  static"
	if got := bar.line(1, 0, s); got != want {
		t.Errorf("half of it:\n%s\n%s", got, want)
	}
	if got := bar.line(0, 0, s); got != "[....................]   0 %  ? left  round 1  udp-echo-64  static" {
		t.Errorf("the beginning: %s", got)
	}
	p.budget = 40 * time.Second
	const bounded = "[###############.....]  75 %  10s left  round 2  udp-echo-64  static"
	if got := bar.line(1, 0, s); got != bounded {
		t.Errorf("with a budget:\n%s\n%s", got, bounded)
	}
}
