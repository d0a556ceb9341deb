// SPDX-License-Identifier: Apache-2.0

// Package view is what /metrics and /healthz are shown: they never wait for who changes the host.
package view

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"replypath/loader/attach"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/doctor/finding"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/metrics"
)

// View is a state of the daemon. Nobody changes it once it is published.
type View struct {
	Datapath   *datapath.Datapath
	Mode       string           // that is configured
	Figures    metrics.Snapshot // what is known without the maps, but for the interfaces
	Interfaces []Interface      // that are managed, by index
	Missing    []string         // configured names that no interface has
	Refused    string           // why a later configuration is not in force, empty if it is
	Problems   []string         // what could not be done yet
	Missed     []pins.InterfaceRecord
	Names      map[uint16]string
}

// Interface is one that is managed.
type Interface struct {
	attach.Interface
	Up         bool
	HasAddress bool
}

// Published is what was published last. The zero value is closed.
type Published struct {
	// Attacher returns who looks at what is attached.
	Attacher func() attach.Means

	reading sync.RWMutex // keeps the datapath of a view open while its maps are read
	view    atomic.Pointer[View]
	passed  atomic.Pointer[time.Time]

	looking   sync.Mutex
	gathering *flows.Gathering // of who looks now; nil: nobody does
	looked    time.Time        // when that was concluded last
	evidence  *flows.Evidence
}

// Pass notes that the daemon's loop goes round.
func (p *Published) Pass() { p.passed.Store(new(time.Now())) }

// Passed tells when it did so last, which has been once.
func (p *Published) Passed() time.Time { return *p.passed.Load() }

// Publish shows a state.
func (p *Published) Publish(v *View) { p.view.Store(v) }

// Amend changes a part of what is published, in the middle of a reconciliation: the rest is not ready to be shown.
func (p *Published) Amend(change func(*View)) {
	if before := p.view.Load(); before != nil {
		v := *before
		change(&v)
		p.view.Store(&v)
	}
}

// WithoutReaders does something while nobody reads the maps of what is published.
func (p *Published) WithoutReaders(do func() error) error {
	p.reading.Lock()
	defer p.reading.Unlock()
	return do()
}

// now returns what was published last, with a datapath that stays open until done is called.
func (p *Published) now() (v *View, done func(), err error) {
	p.reading.RLock()
	if v = p.view.Load(); v == nil {
		p.reading.RUnlock()
		return nil, nil, ErrClosed
	}
	return v, p.reading.RUnlock, nil
}

// ErrClosed says that there is nothing to be shown any more.
var ErrClosed = errors.New("the datapath is closed")

// Snapshot reads every figure. What is counted began when the pins were made and never goes backwards while they stand.
// All reasons that there are have an entry.
func (p *Published) Snapshot() (*metrics.Snapshot, error) {
	v, done, err := p.now()
	if err != nil {
		return nil, err
	}
	defer done()
	byHand, err := datapath.ReadMode(&v.Datapath.Maps)
	if err != nil {
		return nil, err
	}
	s := v.Figures
	s.Mode = datapath.ModeInForce(byHand, v.Mode)
	s.RPFilterDrops = hostsettings.RPFilterDrops()
	s.Interfaces, err = p.interfaces(v)
	if err != nil {
		return nil, err
	}
	gathering, unread := p.gather(v)
	isFilled := false
	defer func() { p.conclude(gathering, isFilled) }() // also where it panics
	if err := counters.Fill(&s, v.Datapath, v.Names, gathering); err != nil {
		return nil, err
	}
	isFilled = true
	evidence := p.conclude(gathering, true)
	if evidence != nil {
		s.Requests = requests(v, evidence)
	}
	s.Findings = findings(v, &s, evidence)
	if unread != nil { // who listens: the figures are there all the same
		s.Findings = append(s.Findings, metrics.Finding{Check: "facts", Severity: string(finding.Warning)})
	}
	return &s, nil
}

// interfaces are those that are managed, by index, and then those that are missing.
func (p *Published) interfaces(v *View) ([]metrics.Interface, error) {
	var list []metrics.Interface
	for _, s := range v.Interfaces {
		hooks, err := counters.ReadHooks(p.Attacher(), s.Interface, false)
		if err != nil {
			return nil, err
		}
		i := metrics.Interface{Name: s.Name, Up: s.Up, Hooks: hooks}
		if _, _, effective, err := hostsettings.RPFilter(s.Name); err == nil {
			i.RPFilter = &effective
		}
		list = append(list, i)
	}
	for _, name := range v.Missing {
		list = append(list, metrics.Interface{Name: name, Hooks: counters.MissingHooks()})
	}
	return list, nil
}

// Lacking says what is not as the configuration has it: which managed interfaces lack one of their programs, or do not exist, and
// that a later configuration was refused.
func (p *Published) Lacking() (lines []string, _ error) {
	v, done, err := p.now()
	if err != nil {
		return nil, err
	}
	defer done()
	list, err := p.interfaces(v)
	if err != nil {
		return nil, err
	}
	var names []string
	for n, i := range list {
		isMissing := n >= len(v.Interfaces)
		switch {
		case isMissing:
			names = append(names, i.Name+" (no such interface)")
		case slices.ContainsFunc(i.Hooks, func(h metrics.Hook) bool { return !h.Attached }):
			names = append(names, i.Name)
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		lines = append(lines, "not attached: "+strings.Join(names, ", "))
	}
	if v.Refused != "" {
		lines = append(lines, "a later configuration was refused: the one before stays: "+v.Refused)
	}
	return lines, nil
}
