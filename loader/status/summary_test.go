// SPDX-License-Identifier: Apache-2.0

package status

import (
	"testing"
	"time"
	"unicode/utf8"

	"replypath/loader/counters"
	"replypath/loader/finding"
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
	return finds(s)
}

// finds has a status know of findings.
func finds(s *Status, findings ...finding.Finding) *Status {
	s.Health = finding.HealthOf(findings)
	return s
}

// counts has a status have counted these replies.
func counts(s *Status, totals counters.Totals) *Status {
	s.Counted.Totals = totals
	return s
}

// asked has the interfaces of a status have had requests.
func asked(s *Status, recent ...flows.Recent) *Status {
	for n := range recent {
		s.Interfaces[n].Recent = recent[n]
	}
	return s
}

// called gives the interfaces of a status other names.
func called(s *Status, names ...string) *Status {
	for n, name := range names {
		s.Interfaces[n].Name = name
	}
	return s
}

// since has counting have begun at a time; nil: it is not known when.
func since(s *Status, at *time.Time) *Status {
	s.Counted.Since = at
	return s
}

func found(severity finding.Severity, text string) finding.Finding {
	return finding.Finding{Check: "check", Severity: severity, Subject: "eth0", Found: text}
}

// TestSummary: the line answers whether all is well, and what is done, and is short. What weighs most goes
// first.
func TestSummary(t *testing.T) {
	type totals = counters.Totals
	const first, second, third = "enp130s0f1np100", "enp130s0f0np100", "enp131s0f0np100"
	mtu := map[string]uint64{"mtu": 40}
	onTrial := healthy("enforce")
	onTrial.TrialUntil = new(noon.Add(2 * time.Minute))
	note, noDaemon := found(finding.Note, "a rule is not needed"), found(finding.Warning, "no daemon runs: what is attached goes on")
	address := found(finding.Error, "gateway 2001:db8:1234:5678:9abc:def0:1234:5678 of enp130s0f1np100 is failed: it does not answer")
	long := found(finding.Error, "eth1 is down and so are its peers, all of them, which is a pity: replies fail")
	for want, s := range map[string]*Status{
		"ok: no requests in the last 10 minutes; enforcing on eth0, eth1; 550 replies corrected, none lost, since 10:14":      counts(healthy("enforce", "enforce"), totals{Corrected: 550}),
		"ok: no requests in the last 10 minutes; enforcing on eth0; no replies corrected, none lost, since 2026-02-27":        since(healthy("enforce"), new(morning.AddDate(0, 0, -2))),
		"ok: no requests in the last 10 minutes; enforcing on eth0; 1 reply corrected, none lost":                             since(counts(healthy("enforce"), totals{Corrected: 1}), nil),
		"ok: no requests in the last 10 minutes; observing on eth0; no replies asymmetric, since 10:14":                       healthy("observe"),
		"ok: no requests in the last 10 minutes; observing on eth0; 42 replies asymmetric, since 10:14":                       counts(healthy("observe"), totals{WouldCorrect: 42}),
		"ok: no requests in the last 10 minutes; observing on eth0; 9 replies corrected, 42 observed, none lost, since 10:14": counts(healthy("observe"), totals{Corrected: 9, WouldCorrect: 42}),
		"ok: no requests in the last 10 minutes; enforcing on eth0, observing on eth1; 550 corrected, 42 observed, none lost": counts(healthy("enforce", "observe"), totals{Corrected: 550, WouldCorrect: 42}),
		"ok: no requests in the last 10 minutes; enforcing on 4 interfaces; no replies corrected, none lost, since 10:14":     healthy("enforce", "enforce", "enforce", "enforce"),
		"ok: no requests in the last 10 minutes; enforcing on eth0; on trial until 12:02; no replies corrected, none lost":    onTrial,
		"degraded: no daemon runs; enforcing on eth0; no replies corrected, none lost":                                        finds(since(healthy("enforce"), nil), noDaemon),
		"ok: no requests in the last 10 minutes; enforcing on eth0; 2 replies corrected, none lost, since 10:14":              finds(counts(healthy("enforce"), totals{Corrected: 2}), note),
		"failed: replies were lost; enforcing on eth0; 5 replies corrected, 9 lost, since 10:14": finds(counts(healthy("enforce"), totals{Corrected: 5, Lost: 9}),
			found(finding.Error, "replies were lost: 9 packets moved and never seen leaving")),
		"ok: no requests in the last 10 minutes; enforcing on eth0; 550 replies corrected, 40 not corrected, none lost": counts(healthy("enforce"),
			totals{Corrected: 550, Uncorrected: map[string]uint64{"mtu": 40, "bound_device": 7}}),
		"failed: replies not corrected; enforcing on eth0; 5 replies corrected, 40 not corrected, since 10:14": finds(counts(healthy("enforce"), totals{Corrected: 5, Uncorrected: mtu}),
			found(finding.Error, "replies not corrected: 40 packets left as routed")),
		"ok: no requests in the last 10 minutes; enforcing on enp130s0f1np100, enp130s0f0np100; 550 replies corrected, none lost": called(counts(healthy("enforce", "enforce"), totals{Corrected: 550}), first, second),
		"ok: no requests in the last 10 minutes; enforcing on 3; 550 replies corrected, 40 not corrected, none lost, since 10:14": called(counts(healthy("enforce", "enforce", "enforce"),
			totals{Corrected: 550, Uncorrected: mtu}), first, second, third),
		"degraded: no daemon runs; enforcing on enp130s0f1np100, observing on enp130s0f0np100; 550 corrected, 7 observed": finds(called(counts(healthy("enforce", "observe"),
			totals{Corrected: 550, WouldCorrect: 7}), first, second), noDaemon),
		"failed: gateway 2001:db8:1234:5678:9abc:def0:1234:5678 of enp130s0f1np100 is failed, 1 more; enforcing on 1; 0 corrected": finds(since(healthy("enforce"), nil), address, address, note),
		"ok: no requests in the last 10 minutes; enforcing on eth0; 500 replies corrected, 1 lost, since 10:14":                    counts(healthy("enforce"), totals{Corrected: 500, Lost: 1}),
		"failed: nothing is attached": healthy(),
		"ok: 219 of 220 replies seen leaving rightly in the last 10 minutes; enforcing on eth0, eth1; 550 corrected, none lost": counts(
			asked(healthy("enforce", "enforce"), flows.Recent{Right: 200, Lost: 1}, flows.Recent{Right: 19}), totals{Corrected: 550}),
		"ok: no requests that anybody answers in the last 10 minutes; enforcing on eth0; no replies corrected, none lost": asked(
			healthy("enforce"), flows.Recent{Silent: 7}),
		"ok: 3 of 5 replies went as enforcing would send them in the last 10 minutes; observing on eth0; 42 replies asymmetric": counts(
			asked(healthy("observe"), flows.Recent{Right: 3, Astray: 2}), totals{WouldCorrect: 42}),
		"failed: nothing is attached: start replypath run, 1 more finding": finds(healthy(),
			found(finding.Warning, "10.4.0.100 on eth1: replies leave by eth0"), found(finding.Note, "nothing is attached: start replypath run")),
		"failed: nothing is attached here: ask with --pin-dir /sys/fs/bpf/a, 1 more finding": finds(healthy(),
			found(finding.Error, "eth1 is down"), found(finding.Warning, "nothing is attached here: ask with --pin-dir /sys/fs/bpf/a: that of replypath")),
		"failed: eth1 is down and so are its peers, 2 more findings; enforcing on eth0; no replies corrected, since 10:14": finds(healthy("enforce"), long, long, long),
	} {
		s.Conclude(noon)
		if s.Summary != want || utf8.RuneCountInString(s.Summary) > summaryWidth {
			t.Errorf("%d columns:\n%s\n%s", utf8.RuneCountInString(s.Summary), s.Summary, want)
		}
	}
}
