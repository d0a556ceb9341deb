// SPDX-License-Identifier: Apache-2.0

package status

import (
	"testing"
	"time"
	"unicode/utf8"

	"replypath/loader/counters"
	"replypath/loader/doctor/finding"
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

func found(severity finding.Severity, text string) finding.Finding {
	return finding.Finding{Check: "check", Severity: severity, Subject: "eth0", Found: text}
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
			s.Counted = Counted{Totals: counters.Totals{Corrected: 1}}
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
		"degraded: no daemon runs; enforcing on eth0; no replies corrected, none lost": func() *Status {
			s := healthy("enforce")
			s.Counted.Since = nil
			return finds(s, found(finding.Warning, "no daemon runs: what is attached goes on"))
		},
		"ok: enforcing on eth0; 2 replies corrected, none lost, since 10:14": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected = 2
			return finds(s, found(finding.Note, "a rule is not needed"))
		},
		"failed: replies were lost; enforcing on eth0; 5 replies corrected, 9 lost": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Lost = 5, 9
			return finds(s, found(finding.Error, "replies were lost: 9 packets moved and never seen leaving"))
		},
		"ok: enforcing on eth0; 550 replies corrected, 40 not corrected, none lost": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Uncorrected = 550, map[string]uint64{"mtu": 40, "bound_device": 7}
			return s
		},
		"failed: replies not corrected; enforcing on eth0; 5 corrected, 40 not corrected": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Uncorrected = 5, map[string]uint64{"mtu": 40}
			return finds(s, found(finding.Error, "replies not corrected: 40 packets left as routed"))
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
		"degraded: no daemon runs; enforcing on 1, observing on 1": func() *Status {
			s := healthy("enforce", "observe")
			s.Interfaces[0].Name, s.Interfaces[1].Name = "enp130s0f1np100", "enp130s0f0np100"
			s.Counted.Corrected, s.Counted.WouldCorrect = 550, 7
			return finds(s, found(finding.Warning, "no daemon runs: what is attached goes on"))
		},
		"failed: gateway 2001:db8:1234:5678:9abc:def0:1234:5678 of enp130s0f1n..., 1 more": func() *Status {
			s := healthy("enforce")
			s.Counted.Since = nil
			long := found(finding.Error, "gateway 2001:db8:1234:5678:9abc:def0:1234:5678 of enp130s0f1np100 is failed: it does not answer")
			return finds(s, long, long, found(finding.Note, "a rule is not needed"))
		},
		"ok: enforcing on eth0; 500 replies corrected, 1 lost, since 10:14": func() *Status {
			s := healthy("enforce")
			s.Counted.Corrected, s.Counted.Lost = 500, 1
			return s
		},
		"failed: nothing is attached": func() *Status { return healthy() },
		"failed: nothing is attached: start replypath run, 1 more finding": func() *Status {
			return finds(healthy(), found(finding.Warning, "10.4.0.100 on eth1: replies leave by eth0"), found(finding.Note, "nothing is attached: start replypath run"))
		},
		"failed: nothing is attached here: ask with --pin-dir /sys/fs/bpf/a, 1 more": func() *Status {
			return finds(healthy(), found(finding.Error, "eth1 is down"), found(finding.Warning, "nothing is attached here: ask with --pin-dir /sys/fs/bpf/a: that of replypath"))
		},
		"failed: eth1 is down and so are its peers, 2 more; enforcing on 1; 0 corrected": func() *Status {
			long := found(finding.Error, "eth1 is down and so are its peers, all of them, which is a pity: replies fail")
			return finds(healthy("enforce"), long, long, long)
		},
	} {
		s := change()
		s.Conclude(noon)
		if s.Summary != want || utf8.RuneCountInString(s.Summary) > 80 {
			t.Errorf("%d columns:\n%s\n%s", utf8.RuneCountInString(s.Summary), s.Summary, want)
		}
	}
}
