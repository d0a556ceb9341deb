// SPDX-License-Identifier: Apache-2.0

package status

import (
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
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

// TestSummary: the line answers whether all is well, and what is done, and fits 80 columns. What weighs most goes first.
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
			s.Counted.Corrected, s.Counted.Lost, s.Counted.Lossy = 5, 9, 9
			return s
		},
		"ok: enforcing on eth0; 500 replies corrected, 1 lost, since 10:14": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Lost = 500, 1
			return s
		},
		"warning: the configuration was refused, 2 more problems; enforcing on eth0": func() *Status {
			s := healthy("enforce", "enforce")
			s.Config.Error = new("replypath.yaml:1: mode: 1 is not one of enforce, observe")
			s.Interfaces[1].Attached = false
			s.Errors = []string{"metrics: serve metrics at 127.0.0.1:9945: address already in use"}
			s.Counted.Corrected = 1 << 62
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
		"not attached":           {at(func(i *Interface) { i.Attached = false }), []string{"eth0 is not attached", "eth0 is not attached"}},
		"down, and not attached": {at(func(i *Interface) { i.Up, i.Attached = false, false }), []string{"eth0 is down and not attached", "eth0 is down and not attached"}},
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
