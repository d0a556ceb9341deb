// SPDX-License-Identifier: Apache-2.0

// Package view is what /metrics and /healthz are shown: they never wait for who changes the host.
package view

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/metrics"
)

// View is a state of the daemon. Nobody changes it once it is published.
type View struct {
	Datapath   *datapath.Datapath
	Mode       string          // that is configured
	Figures    metrics.Samples // what is known without the maps, but for the interfaces
	Gateways   []Gateway
	Repairs    map[string]uint64 // by object: what was put back after somebody else had taken it away or changed it
	Interfaces []Interface       // that are managed, by index
	Missing    []string          // configured names that no interface has
	Refused    string            // why a later configuration is not in force, empty if it is
	Problems   []string          // what could not be done yet
	Missed     []pins.InterfaceRecord
	Names      map[uint16]string
}

// Interface is one that is managed.
type Interface struct {
	attach.Interface
	Up         bool
	HasAddress bool
}

// Gateway is a known one of a managed interface.
type Gateway struct {
	Interface string
	Address   netip.Addr
	Reachable bool // by its last genuine answer, also while its entry is held
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
func (p *Published) Snapshot() (metrics.Samples, error) {
	v, done, err := p.now()
	if err != nil {
		return nil, err
	}
	defer done()
	byHand, err := datapath.ReadMode(&v.Datapath.Maps)
	if err != nil {
		return nil, err
	}
	interfaces, err := p.interfaces(v)
	if err != nil {
		return nil, err
	}
	gathering, unread := p.gather(v)
	isFilled := false
	defer func() { p.conclude(gathering, isFilled) }() // also where it panics
	s := slices.Clone(v.Figures)
	tables, err := counters.Fill(&s, v.Datapath, v.Names, gathering)
	if err != nil {
		return nil, err
	}
	isFilled = true
	evidence := p.conclude(gathering, true)
	addHost(&s, v, datapath.ModeInForce(byHand, v.Mode))
	addInterfaces(&s, interfaces)
	if unread != nil { // who listens: the figures are there all the same
		s.Add(counters.Findings, 1, "facts", string(finding.Warning))
	}
	if evidence != nil {
		addRequests(&s, v, evidence)
	}
	for f, count := range findings(v, interfaces, tables, evidence) {
		s.Add(counters.Findings, float64(count), f.check, string(f.severity))
	}
	return s, nil
}

// addHost adds what is no interface's.
func addHost(s *metrics.Samples, v *View, modeInForce string) {
	for _, mode := range []config.Mode{config.ModeEnforce, config.ModeObserve} {
		s.AddBool(counters.Mode, modeInForce == string(mode), string(mode))
	}
	for _, object := range []string{"route", "sysctl", "program", "neighbour"} {
		s.Add(counters.HostRepairs, float64(v.Repairs[object]), object)
	}
	if drops := hostsettings.RPFilterDrops(); drops != nil {
		s.Add(counters.RPFilterDrops, float64(*drops))
	}
	// Of what is listed twice, or by its zone too, which the interface tells, one is enough that answers.
	reachable := make(map[Gateway]bool)
	for _, g := range v.Gateways {
		key := Gateway{Interface: g.Interface, Address: g.Address.Unmap().WithZone("")}
		reachable[key] = reachable[key] || g.Reachable
	}
	for g, is := range reachable {
		family := "ipv6"
		if g.Address.Is4() {
			family = "ipv4"
		}
		s.AddBool(counters.GatewayReachable, is, g.Interface, family, g.Address.String())
	}
}

// shown is an interface that is managed, or one that is configured by this name and does not exist.
type shown struct {
	Interface
	hooks     counters.Hooks
	isMissing bool
}

func addInterfaces(s *metrics.Samples, interfaces []shown) {
	for _, i := range interfaces {
		s.AddBool(counters.InterfaceUp, i.Up, i.Name)
		for _, hook := range i.hooks {
			s.AddBool(counters.InterfaceAttached, hook.Attached, i.Name, hook.Name, cmp.Or(hook.Mechanism, "none"))
		}
		if i.isMissing {
			continue
		}
		if _, _, effective, err := hostsettings.RPFilter(i.Name); err == nil {
			s.Add(counters.RPFilter, float64(effective), i.Name)
		}
	}
}

// interfaces are those that are managed, by index, and then those that are missing.
func (p *Published) interfaces(v *View) (list []shown, _ error) {
	for _, i := range v.Interfaces {
		hooks, err := counters.ReadHooks(p.Attacher(), i.Interface, false)
		if err != nil {
			return nil, err
		}
		list = append(list, shown{Interface: i, hooks: hooks})
	}
	for _, name := range v.Missing {
		list = append(list, shown{Interface: Interface{Interface: attach.Interface{Name: name}}, hooks: counters.MissingHooks(), isMissing: true})
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
	for _, i := range list {
		switch {
		case i.isMissing:
			names = append(names, i.Name+" (no such interface)")
		case i.hooks.Lack():
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
