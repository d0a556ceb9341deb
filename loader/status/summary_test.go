// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/flows"
)

// morning is when counting began, and noon when somebody looks.
var (
	morning = time.Date(2026, time.March, 1, 10, 14, 0, 0, time.Local)
	noon    = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.Local)
)

// healthy is that of a host with interfaces of these modes, which a daemon serves.
func healthy(modes ...string) *Status {
	s := &Status{Daemon: Daemon{Running: true}, Counted: Counted{Since: &morning}}
	for n, mode := range modes {
		s.Interfaces = append(s.Interfaces, Interface{
			Name: "eth" + string(rune('0'+n)), Up: true, Attached: true, Mode: mode, NextHop: "auto",
		})
	}
	return s
}

// TestSummary: the line answers whether all is well, and what is done, and fits 80 columns. What weighs most goes
// first.
func TestSummary(t *testing.T) {
	for want, change := range map[string]func() *Status{
		"ok: enforcing on eth0, eth1; 550 replies corrected, none lost, since 10:14": func() *Status {
			s := healthy("enforce", "enforce")
			s.Counted.Corrected = 550
			return s
		},
		"ok: enforcing on eth0; no replies corrected, none lost, since 2026-02-27": func() *Status {
			s := healthy("enforce")
			s.Counted.Since = new(morning.AddDate(0, 0, -2))
			return s
		},
		"ok: enforcing on eth0; 1 reply corrected, none lost": func() *Status {
			s := healthy("enforce")
			s.Counted = Counted{Corrected: 1}
			return s
		},
		"ok: observing on eth0; 0 replies need correction, since 10:14": func() *Status { return healthy("observe") },
		"ok: observing on eth0; 42 replies would be corrected, since 10:14": func() *Status {
			s := healthy("observe")
			s.Counted.WouldCorrect = 42
			return s
		},
		"ok: observing on eth0; 9 replies corrected, 42 would be, none lost, since 10:14": func() *Status {
			s := healthy("observe")
			s.Counted.Corrected, s.Counted.WouldCorrect = 9, 42
			return s
		},
		"ok: enforcing on eth0, observing on eth1; 550 corrected, 42 would be, none lost": func() *Status {
			s := healthy("enforce", "observe")
			s.Counted.Corrected, s.Counted.WouldCorrect = 550, 42
			return s
		},
		"ok: enforcing on 4 interfaces; no replies corrected, none lost, since 10:14": func() *Status {
			return healthy("enforce", "enforce", "enforce", "enforce")
		},
		"ok: enforcing on eth0; on trial until 12:02; no replies corrected, none lost": func() *Status {
			s := healthy("enforce")
			s.TrialUntil = new(noon.Add(2 * time.Minute))
			return s
		},
		"warning: no daemon; enforcing on eth0; no replies corrected, none lost": func() *Status {
			s := healthy("enforce")
			s.Daemon.Running = false
			s.Counted.Since = nil
			return s
		},
		"warning: replies were lost; enforcing on eth0; 5 replies corrected, 9 lost": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Lost, s.Counted.Failing.Lost = 5, 9, 9
			return s
		},
		"ok: enforcing on eth0; 550 replies corrected, 40 not corrected, none lost": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Uncorrected = 550, map[string]uint64{"mtu": 40, "bound_device": 7}
			return s
		},
		"warning: replies not corrected; enforcing on eth0; 5 corrected, 40 not corrected": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Failing.Uncorrected, s.Counted.Uncorrected = 5, 40, map[string]uint64{"mtu": 40}
			return s
		},
		"ok: enforcing on enp130s0f1np100, enp130s0f0np100; 550 corrected, none lost": func() *Status {
			s := healthy("enforce", "enforce")
			s.Interfaces[0].Name, s.Interfaces[1].Name = "enp130s0f1np100", "enp130s0f0np100"
			s.Counted.Corrected = 550
			return s
		},
		"ok: enforcing on 3; 550 replies corrected, 40 not corrected, none lost": func() *Status {
			s := healthy("enforce", "enforce", "enforce")
			s.Interfaces[0].Name, s.Interfaces[1].Name, s.Interfaces[2].Name = "enp130s0f1np100", "enp130s0f0np100", "enp131s0f0np100"
			s.Counted.Corrected, s.Counted.Uncorrected = 550, map[string]uint64{"mtu": 40}
			return s
		},
		"warning: no daemon; enforcing on 1, observing on 1; 550 corrected, 7 would be": func() *Status {
			s := healthy("enforce", "observe")
			s.Interfaces[0].Name, s.Interfaces[1].Name = "enp130s0f1np100", "enp130s0f0np100"
			s.Daemon.Running, s.Counted.Corrected, s.Counted.WouldCorrect = false, 550, 7
			return s
		},
		"warning: a gateway of enp130s0f1np100 has not answered yet, 1 more; 0 corrected": func() *Status {
			s := healthy("enforce", "enforce")
			i := &s.Interfaces[0]
			i.Name, i.Gateways = "enp130s0f1np100", slices.Repeat([]Gateway{{Address: "2001:db8:1234:5678:9abc:def0:1234:5678", State: "none"}}, 2)
			return s
		},
		"ok: enforcing on eth0; 500 replies corrected, 1 lost, since 10:14": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Lost = 500, 1
			return s
		},
		"warning: eth1 is not attached, 2 more problems; enforcing on eth0": func() *Status {
			s := healthy("enforce", "enforce")
			s.Config.Error = new("replypath.yaml:1: mode: 1 is not one of enforce, observe")
			s.Interfaces[1].Attached = false
			s.Errors = []string{"metrics: serve metrics at 127.0.0.1:9945: address already in use"}
			s.Counted.Corrected = 1 << 62
			return s
		},
		"warning: a later configuration was refused; enforcing on eth0; 0 corrected": func() *Status {
			s := healthy("enforce")
			s.Config.Error = new("replypath.yaml:1: mode: 1 is not one of enforce, observe")
			return s
		},
		"warning: nothing is attached": func() *Status { return healthy() },
	} {
		s := change()
		s.Conclude(noon)
		if s.Summary != want || utf8.RuneCountInString(s.Summary) > 80 {
			t.Errorf("%d columns:\n%s\n%s", utf8.RuneCountInString(s.Summary), s.Summary, want)
		}
	}
}

// TestDiagnose: each thing that is wrong is a problem, and what a host may have without harm is none.
func TestDiagnose(t *testing.T) {
	running := healthy("enforce")
	at := func(change func(*Interface)) *Status {
		s := healthy("enforce")
		change(&s.Interfaces[0])
		return s
	}
	second := func(change func(*Interface)) *Status {
		s := healthy("enforce", "enforce")
		change(&s.Interfaces[1])
		return s
	}
	change := func(change func(*Status)) *Status {
		s := healthy("enforce")
		change(s)
		return s
	}
	gateway := func(state string) func(*Interface) {
		return func(i *Interface) { i.Gateways = []Gateway{{Address: "10.3.0.1", State: state}} }
	}
	message := func(text string) *Status {
		s := healthy("enforce")
		s.Errors = []string{text}
		return s
	}
	for what, test := range map[string]struct {
		s    *Status
		want []string // problem and text
	}{
		"all is well":            {running, nil},
		"no gateway, auto":       {at(func(i *Interface) { i.Gateways = nil }), nil},
		"no gateway, gateway":    {at(func(i *Interface) { i.NextHop = "gateway" }), []string{"eth0 has no gateway", "eth0 has no gateway"}},
		"no gateway, no header":  {at(func(i *Interface) { i.NextHop, i.headerless = "gateway", true }), nil},
		"reachable":              {at(gateway("reachable")), nil},
		"stale":                  {at(gateway("stale")), nil},
		"held":                   {at(gateway("held")), []string{"gateway 10.3.0.1 of eth0 is silent", "gateway 10.3.0.1 of eth0 is silent"}},
		"failed":                 {at(gateway("failed")), []string{"gateway 10.3.0.1 of eth0 is silent", "gateway 10.3.0.1 of eth0 is silent"}},
		"none":                   {at(gateway("none")), []string{"gateway 10.3.0.1 of eth0 has not answered yet", "gateway 10.3.0.1 of eth0 has not answered yet"}},
		"down":                   {at(func(i *Interface) { i.Up = false }), []string{"eth0 is down", "eth0 is down"}},
		"not attached":           {second(func(i *Interface) { i.Attached = false }), []string{"eth1 is not attached", "eth1 is not attached"}},
		"down, and not attached": {second(func(i *Interface) { i.Up, i.Attached = false, false }), []string{"eth1 is down and not attached", "eth1 is down and not attached"}},
		"nothing is attached": {healthy(), []string{
			"nothing is attached", "nothing is attached: replypath run attaches, replypath check says to what"}},
		"strict": {at(func(i *Interface) { i.RPFilter = new(1) }), []string{"rp_filter of eth0 is strict",
			"rp_filter of eth0 is strict: the kernel drops what arrives there from peers behind another interface: replypath doctor says how to mend it"}},
		"loose": {at(func(i *Interface) { i.RPFilter = new(2) }), nil},
		"strict, as the daemon tells": {change(func(s *Status) {
			s.Interfaces[0].RPFilter, s.Errors = new(1), []string{"eth0 only observes, rp_filter is strict"}
		}), []string{"eth0 only observes, rp_filter is strict", "eth0 only observes, rp_filter is strict"}},
		"not corrected": {change(func(s *Status) { s.Counted.Failing.Uncorrected = 40 }), []string{"replies not corrected",
			"replies not corrected: 40 packets left as routed: NOT CORRECTED says why, replypath trace shows them"}},
		"a full table": {change(func(s *Status) {
			s.Flows.Tables = []flows.TableUsage{{Name: "half_open", Flows: 94, Capacity: 100}, {Name: "established", Flows: 95, Capacity: 100}, {Name: "none"}}
		}), []string{"flow table established is full", "flow table established is full: 95 of 100 flows: raise flow_table.max_entries"}},
		"flows without a place": {change(func(s *Status) { s.Counted.NotEntered = 1 }), []string{
			"flows were not recorded", "flows were not recorded: 1 flow found no place in a table: raise flow_table.max_entries"}},
		"errors of a daemon that has ended": {change(func(s *Status) {
			s.Daemon.Running = false
			s.Errors = []string{"no route", "metrics: address already in use", "interface eth9 is not there yet: it is managed once it appears"}
		}), []string{
			"no daemon", "no daemon: what is attached goes on, but follows no change: start replypath run",
			"no route, when the daemon ended", "no route, when the daemon ended",
			"an error, when the daemon ended", "an error, when the daemon ended: metrics: address already in use",
			"interface eth9 is not there yet, when the daemon ended",
			"interface eth9 is not there yet, when the daemon ended: interface eth9 is not there yet: it is managed once it appears",
		}},
		"a missing interface": {message("interface eth9 is not there yet: it is managed once it appears"),
			[]string{"interface eth9 is not there yet", "interface eth9 is not there yet: it is managed once it appears"}},
		"a short message": {message("no route"), []string{"no route", "no route"}},
		"a message that begins with one word": {message("metrics: serve metrics at 127.0.0.1:9945: address already in use"),
			[]string{"an error", "metrics: serve metrics at 127.0.0.1:9945: address already in use"}},
	} {
		var got []string
		for _, p := range test.s.Diagnose() {
			got = append(got, p.Problem, p.Text())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// TestOrderOfProblems: what does most harm now comes first, whatever the interface.
func TestOrderOfProblems(t *testing.T) {
	s := healthy("enforce", "enforce", "enforce", "enforce")
	s.Interfaces[0].RPFilter = new(1)
	s.Interfaces[1].Gateways = []Gateway{{Address: "10.3.0.1", State: "failed"}}
	s.Interfaces[2].Up = false
	s.Interfaces[3].Attached = false
	s.Counted.Failing.Lost, s.Counted.Failing.Uncorrected, s.Counted.NotEntered = 4, 4, 4
	s.Daemon.Running = false
	s.Config.Error, s.Errors = new("wrong"), []string{"no route"}
	var got []string
	for _, p := range s.Diagnose() {
		got = append(got, p.Problem)
	}
	want := []string{
		"eth3 is not attached", "eth2 is down", "gateway 10.3.0.1 of eth1 is silent", "rp_filter of eth0 is strict",
		"replies were lost", "replies not corrected", "flows were not recorded", "no daemon",
		"a later configuration was refused, the old one is in force", "no route, when the daemon ended",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
