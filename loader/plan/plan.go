// SPDX-License-Identifier: Apache-2.0

// Package plan tells what would change on a host if replypath enforced, which rules, marks, tables and routes could go
// then, and what is still in the way. It changes nothing.
package plan

import (
	"context"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"replypath/loader/doctor"
	"replypath/loader/doctor/gather"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/loader/status"
)

// Plan is the answer. The JSON names are fixed.
type Plan struct {
	Verdict      string               `json:"verdict"`
	Summary      string               `json:"summary"` // the verdict in one line
	MadeAt       time.Time            `json:"made_at"`
	WatchedSince *time.Time           `json:"watched_since"` // nil: nothing but this moment was looked at
	Watched      float64              `json:"watched_seconds"`
	Attached     bool                 `json:"-"`          // false: the sockets alone tell of connections
	WouldMove    []snapshot.Row       `json:"would_move"` // replies
	Originated   []Originated         `json:"originated"` // what this host opened
	Rules        []Rule               `json:"rules"`
	HostChanges  []status.WouldChange `json:"host_changes"`
	Blockers     []finding.Finding    `json:"blockers"`
	Mended       []finding.Finding    `json:"mended"` // what enforcing is for
}

// Verdicts of a plan.
const (
	Ready       = "ready"
	Blocked     = "blocked"
	NothingToDo = "nothing-to-do"
)

// Originated is what this host opened from the address of another interface than its route leads by.
type Originated struct {
	snapshot.Row
	Remedy string `json:"remedy"` // what would have it leave by the interface of its address
}

// Options say what is planned for.
type Options struct {
	doctor.Options
	Watch    time.Duration             // how long to go on looking; 0: at this moment only
	Progress func(since time.Duration) // is told, before each further look, for how long it has been watched; nil: nobody is
}

// Make looks at the network namespace of the calling thread, as doctor.Examine does, and for as long as it is to watch at the
// flow tables and sockets. The end of ctx ends watching early: the plan then is of what was seen.
func Make(ctx context.Context, options Options) (*Plan, error) {
	const percent = 20 // few of many flows are kept
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	host, err := gather.Snapshot(options.Options)
	if err != nil {
		return nil, err
	}
	seen := newLooks()
	look := func() (*looks, error) { return look(options.PinDir, host) }
	if err := seen.watch(ctx, &options, look); err != nil {
		return nil, err
	}
	if options.Watch > 0 { // what is judged is the host as it is then
		if host, err = gather.Snapshot(options.Options); err != nil {
			return nil, err
		}
		if err := seen.once(look); err != nil {
			return nil, err
		}
	}
	p := &planner{Host: host, looks: seen, judgeOf: judge{
		Host: host, rows: seen.list(), uses: seen.uses, marks: seen.marks, lookedFor: seen.watched(), forgotten: seen.incomplete,
	}}
	if host.Attached {
		if p.journal, err = pins.ReadJournal(options.PinDir); err != nil {
			return nil, err
		}
	}
	plan := p.plan()
	if options.Watch > 0 {
		plan.WatchedSince = &seen.begun
	}
	return plan, nil
}

func (p *planner) plan() *Plan {
	mended := []finding.Finding{}
	for _, f := range doctor.Judge(p.Host) {
		switch {
		case p.isMendedByEnforcing(&f):
			mended = append(mended, f)
		case f.Severity == finding.Error:
			p.blocked = append(p.blocked, f)
		case f.Severity == finding.Warning:
			p.warned++
		}
	}
	plan := &Plan{
		MadeAt: p.looks.at, Watched: p.looks.watched().Seconds(), Attached: p.Attached, WouldMove: []snapshot.Row{}, Originated: []Originated{},
		Rules: append([]Rule{}, p.rules()...), HostChanges: append([]status.WouldChange{}, p.changes()...),
		Blockers: append([]finding.Finding{}, p.blocked...), Mended: mended,
	}
	for _, r := range p.judgeOf.rows {
		if r.Originated {
			plan.Originated = append(plan.Originated, Originated{r, p.remedy(&r)})
		} else {
			plan.WouldMove = append(plan.WouldMove, r)
		}
	}
	p.conclude(plan)
	return plan
}

// isMendedByEnforcing tells of what replypath itself mends once it enforces.
func (p *planner) isMendedByEnforcing(f *finding.Finding) bool {
	switch f.Check {
	case "addresses":
		return f.Fix != nil
	case "wrong-way", "sender":
		return f.Severity == finding.Warning && f.Fix != nil // it only observes
	case "rp-filter":
		return p.Config.ManageRPFilter && f.Fix != nil
	case "default-route":
		return p.Config.FallbackRoute && f.Fix != nil
	}
	return false
}

func (p *planner) conclude(plan *Plan) {
	plan.Verdict = Ready
	needless := 0
	for _, r := range plan.Rules {
		if r.Verdict == NotNeeded {
			needless++
		}
	}
	switch {
	case len(plan.Blockers) > 0:
		plan.Verdict = Blocked
		first := plan.Blockers[0]
		plan.Summary = fmt.Sprintf("blocked: %s: %s", first.Check, first.Found)
		if more := len(plan.Blockers) - 1; more > 0 {
			plan.Summary += fmt.Sprintf(" (and %d more)", more)
		}
	case len(plan.WouldMove) == 0 && len(plan.Originated) == 0 && len(plan.Mended) == 0 && needless == 0:
		plan.Verdict, plan.Summary = NothingToDo, "nothing to do here"
	case p.EnforcesAll() && needless == 0:
		plan.Summary = "ready: replypath enforces already"
	case p.EnforcesAll():
		plan.Summary = fmt.Sprintf("ready: replypath enforces already; %s could go", finding.Counted(needless, "rule or the like", "rules and the like"))
	case p.Attached:
		plan.Summary = "ready: replypath mode enforce"
	default:
		plan.Summary = "ready: replypath try"
	}
	if isDone := plan.Verdict == NothingToDo || p.EnforcesAll() && plan.Verdict == Ready; isDone && p.warned > 0 {
		plan.Summary += "; doctor has " + finding.Counted(p.warned, "warning", "warnings")
	}
}

// remedy says what would have what this host opens leave by the interface of its address.
func (p *planner) remedy(r *snapshot.Row) string {
	i := p.Named(r.ToInterface)
	if i != nil && p.judgeOf.leaves(i, r) {
		return "none: host_model: strong sends it by " + r.ToInterface
	}
	if p.judgeOf.relates(r) {
		return fmt.Sprintf("none: its peer is heard at %s, and related sends it there", r.ToInterface)
	}
	text := fmt.Sprintf("host_model: strong of %s", r.ToInterface)
	if i == nil {
		return text
	}
	for _, g := range p.Gateways {
		if g.Interface == i.Index && g.Address.Is4() == r.Self.Is4() {
			return fmt.Sprintf("%s; or a route to %s via %s dev %s", text, r.Peer, g.Address, i.Name)
		}
	}
	return text
}

// changes lists what enforcing would change on the host: as the daemon has planned it, and before a first start what
// can be told without one.
func (p *planner) changes() []status.WouldChange {
	switch {
	case p.journal == nil:
		return firstChanges(p.Host)
	case p.EnforcesAll():
		return nil
	}
	return p.journal.WouldChange
}

// firstChanges leaves out the routes for sockets that are bound to a device: they depend on who answers.
func firstChanges(h *snapshot.Host) (changes []status.WouldChange) {
	add := func(c status.HostChange) {
		changes = append(changes, status.WouldChange{Object: c.Object, Before: c.Before, After: c.After})
	}
	for _, i := range h.Interfaces {
		key, all := hostsettings.Key("ipv4", i.Name, "rp_filter"), hostsettings.Key("ipv4", "all", "rp_filter")
		if h.Config.ManageRPFilter && max(h.Settings[key], h.Settings[all]) == hostsettings.RPFilterStrict {
			add(status.SysctlChange(&hostsettings.Change{
				Key: key, Before: strconv.Itoa(h.Settings[key]), After: strconv.Itoa(hostsettings.RPFilterLoose),
			}))
		}
	}
	if h.Config.FallbackRoute && len(h.Interfaces) > 0 && !h.HasOwnDevice() {
		add(status.DeviceChange())
	}
	return changes
}
