// SPDX-License-Identifier: Apache-2.0

package view

import (
	"errors"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"replypath/loader/doctor/finding"
	"replypath/loader/flows"
	"replypath/metrics"
)

// evidenceInterval is how old what became of requests may be.
const evidenceInterval = 10 * time.Second

// gather begins to look at what became of requests, nil where somebody else does, or did a moment ago.
func (p *Published) gather(v *View) (*flows.Gathering, error) {
	p.looking.Lock()
	defer p.looking.Unlock()
	if time.Since(p.looked) < evidenceInterval {
		return nil, nil
	}
	p.looked = time.Now()
	clock, err := v.Datapath.Clock()
	if err != nil {
		return nil, err
	}
	return flows.Gather(clock)
}

// conclude returns what became of requests, as it was seen last.
func (p *Published) conclude(gathering *flows.Gathering) *flows.Evidence {
	p.looking.Lock()
	defer p.looking.Unlock()
	if gathering != nil {
		p.evidence = gathering.Evidence()
	}
	if p.evidence == nil {
		return &flows.Evidence{}
	}
	return p.evidence
}

// requests are what became of those by interfaces that are managed.
func requests(v *View, evidence *flows.Evidence) (list []metrics.Requests) {
	for _, i := range v.Interfaces {
		var sum flows.Recent
		for id, recent := range evidence.Recent {
			if v.Names[id] == i.Name {
				sum.Add(&recent)
			}
		}
		list = append(list, metrics.Requests{Interface: i.Name, Right: sum.Right, Astray: sum.Astray, Lost: sum.Lost, Unanswered: sum.Unanswered})
	}
	return list
}

// nearlyFull is how much of a table, in percent, is too much.
const nearlyFull = 90

// findings are what the daemon knows to be wrong, by the names that doctor has for it.
func findings(v *View, s *metrics.Snapshot, evidence *flows.Evidence) (list []metrics.Finding) {
	note := func(is bool, check string, severity finding.Severity) {
		if is {
			list = append(list, metrics.Finding{Check: check, Severity: string(severity)})
		}
	}
	for n, i := range s.Interfaces {
		isThere := n < len(v.Interfaces)
		note(!isThere, "missing-interface", finding.Error)
		note(isThere && slices.ContainsFunc(i.Hooks, func(h metrics.Hook) bool { return !h.Attached }), "attached", finding.Error)
		note(isThere && !i.Up, "link", finding.Warning)
	}
	for _, g := range s.Gateways {
		note(!g.Reachable, "gateway", finding.Warning)
	}
	for _, t := range s.Tables {
		note(t.Lasting*100 >= t.Capacity*nearlyFull, "flow-table", finding.Warning)
	}
	note(v.Refused != "", "configuration", finding.Warning)
	for range v.Problems {
		note(true, "daemon", finding.Warning)
	}
	for _, f := range evidence.Findings(v.Names) {
		note(true, flows.CheckUnanswered, f.Severity)
	}
	for _, f := range evidence.Gone(v.Missed) {
		note(true, flows.CheckGone, f.Severity)
	}
	for _, i := range v.Interfaces {
		note(!i.HasAddress && isLost(v, evidence.Had[i.ID]), flows.CheckGone, finding.Warning)
	}
	for _, r := range s.Requests {
		note(r.Astray+r.Lost > 0, "wrong-way", finding.Warning)
	}
	return list
}

// isLost tells of flows to an address that this host has no more.
func isLost(v *View, had flows.Had) bool {
	var flags uint32
	return had.Flows > 0 && errors.Is(v.Datapath.OwnAddresses.Lookup(had.Self.As16(), &flags), ebpf.ErrKeyNotExist)
}
