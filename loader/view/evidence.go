// SPDX-License-Identifier: Apache-2.0

package view

import (
	"slices"
	"time"

	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/metrics"
)

// evidenceInterval is how old what became of requests may be.
const evidenceInterval = 10 * time.Second

// gather begins to look at what became of requests, nil where somebody else does, or did a moment ago. conclude ends it.
func (p *Published) gather(v *View) (*flows.Gathering, error) {
	p.looking.Lock()
	defer p.looking.Unlock()
	if p.gathering != nil || time.Since(p.looked) < evidenceInterval {
		return nil, nil
	}
	clock, err := v.Datapath.Clock()
	if err != nil {
		return nil, err
	}
	p.gathering, err = flows.Gather(clock.Since, &v.Datapath.Maps)
	return p.gathering, err
}

// conclude returns what became of requests as it was seen last, which is now if all flows were gathered. Once that is concluded, or
// failed, others may look.
func (p *Published) conclude(gathering *flows.Gathering, isWhole bool) *flows.Evidence {
	p.looking.Lock()
	defer p.looking.Unlock()
	if gathering != nil && p.gathering == gathering {
		p.gathering = nil
		if isWhole {
			p.evidence, p.looked = gathering.Evidence(), time.Now()
		}
	}
	return p.evidence
}

// recentOf is what became of requests by an interface, also in earlier lives of it.
func recentOf(v *View, evidence *flows.Evidence, name string) (sum flows.Recent) {
	for id, recent := range evidence.Recent {
		if v.Names[id] == name {
			sum.Add(&recent)
		}
	}
	return sum
}

// addRequests adds what became of those by interfaces that are managed.
func addRequests(s *metrics.Samples, v *View, evidence *flows.Evidence) {
	for _, i := range v.Interfaces {
		sum := recentOf(v, evidence, i.Name)
		for outcome, count := range map[string]int{"right": sum.Right, "astray": sum.Astray, "lost": sum.Lost, "unanswered": sum.Unanswered} {
			s.Add(counters.RecentRequests, float64(count), i.Name, outcome)
		}
	}
}

// nearlyFull is how much of a table, in percent, is too much.
const nearlyFull = 90

// found is a kind of finding: something that is wrong, or worth knowing.
type found struct {
	check    string // what was examined
	severity finding.Severity
}

// findings are how often the daemon knows something to be wrong, by the names that doctor has for it.
func findings(v *View, interfaces []shown, tables []flows.TableUsage, evidence *flows.Evidence) map[found]int {
	counts := make(map[found]int)
	note := func(is bool, check string, severity finding.Severity) {
		if is {
			counts[found{check, severity}]++
		}
	}
	for _, i := range interfaces {
		isThere := !i.isMissing
		note(!isThere, "missing-interface", finding.Error)
		note(isThere && i.hooks.Lack(), "attached", finding.Error)
		isOf := func(g Gateway) bool { return g.Interface == i.Name }
		isUsed := isThere && (i.HasAddress || slices.ContainsFunc(v.Gateways, isOf))
		note(isUsed && !i.Up, "link", finding.Warning)
		for _, g := range v.Gateways {
			note(isThere && i.Up && isOf(g) && !g.Reachable, "gateway", finding.Warning)
		}
	}
	for _, t := range tables {
		note(t.Capacity > 0 && t.Lasting*100 >= t.Capacity*nearlyFull, "flow-table", finding.Warning)
	}
	note(v.Refused != "", "configuration", finding.Warning)
	for range v.Problems {
		note(true, "daemon", finding.Warning)
	}
	if evidence == nil {
		return counts
	}
	for _, f := range evidence.Findings(v.Names) {
		note(true, flows.CheckUnanswered, f.Severity)
	}
	for _, f := range evidence.Gone(v.Missed) {
		note(!slices.Contains(v.Missing, *f.Interface), flows.CheckGone, f.Severity) // else missing-interface says so
	}
	for _, i := range v.Interfaces {
		recent := recentOf(v, evidence, i.Name)
		for outcome := range recent.Wrong {
			isObserved := outcome == bpf.DatapathOutcomeOUTCOME_OBSERVE
			note(isObserved, "wrong-way", finding.Note)
			note(!isObserved && recent.Shows(outcome), "wrong-way", finding.Error)
		}
	}
	return counts
}
