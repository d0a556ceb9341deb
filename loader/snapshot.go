package loader

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/metrics"
)

// view is what /metrics and /healthz are shown. Nobody changes it once it is published, so that they never wait for who
// changes the host.
type view struct {
	datapath   *datapath.Datapath
	mode       string           // that is configured
	figures    metrics.Snapshot // what is known without the maps, but for the interfaces
	interfaces []viewed         // that are managed, by index
	missing    []string         // configured names that no interface has
	names      map[uint16]string
	forgotten  []pins.PairRecord
	notices    []string
}

// viewed is an interface.
type viewed struct {
	attach.Interface
	up bool
}

// amend changes a part of what is published, in the middle of a reconciliation: the rest is not ready to be shown.
func (l *Loader) amend(change func(*view)) {
	if before := l.view.Load(); before != nil {
		v := *before
		change(&v)
		l.view.Store(&v)
	}
}

// repairFigures are shown as soon as one is counted: who sees what was put back looks for its count.
func repairFigures(repairs map[string]uint64) metrics.HostRepairs {
	return metrics.HostRepairs{
		Route: repairs[repairRoute], Sysctl: repairs[repairSysctl],
		Program: repairs[repairProgram], Neighbour: repairs[repairNeighbour],
	}
}

// Objects of host repairs, as the metrics name them.
const (
	repairNeighbour = "neighbour"
	repairProgram   = "program"
	repairRoute     = "route"
	repairSysctl    = "sysctl"
)

func (l *Loader) countRepair(object string) {
	if l.state.Repairs == nil {
		l.state.Repairs = make(map[string]uint64)
	}
	l.state.Repairs[object]++
	l.amend(func(v *view) { v.figures.HostRepairs = repairFigures(l.state.Repairs) })
}

// publish shows the state as it is now.
func (l *Loader) publish() {
	if l.dir == nil {
		return // closed
	}
	v := &view{
		datapath: l.datapath, mode: l.state.Mode, missing: l.missingNow(),
		names: identity.Names(l.state.Interfaces), forgotten: l.state.Forgotten,
		notices: l.problems.standing[scopeAstray],
		figures: metrics.Snapshot{
			ReloadFailed:   l.state.ConfigErr != "",
			ReloadSuccess:  l.state.LoadedAt,
			Gateways:       l.gatewayFigures(),
			HostRepairs:    repairFigures(l.state.Repairs),
			FallbackActive: metrics.Families{IPv4: l.routes.IsActive(unix.AF_INET), IPv6: l.routes.IsActive(unix.AF_INET6)},
		},
	}
	for _, f := range l.state.Features {
		v.figures.Features = append(v.figures.Features, metrics.Feature{Name: f.Name, Available: f.Available})
	}
	for _, s := range l.inOrder() {
		v.interfaces = append(v.interfaces, viewed{s.target(), s.Up})
	}
	l.view.Store(v)
}

// viewNow returns what was published last, with a datapath that stays open until done is called.
func (l *Loader) viewNow() (v *view, done func(), err error) {
	l.reading.RLock()
	if v = l.view.Load(); v == nil {
		l.reading.RUnlock()
		return nil, nil, errClosed
	}
	return v, l.reading.RUnlock, nil
}

// Snapshot reads every figure. What is counted began when the pins were made and never goes backwards while they stand.
// All reasons that there are have an entry.
func (l *Loader) Snapshot() (*metrics.Snapshot, error) {
	v, done, err := l.viewNow()
	if err != nil {
		return nil, err
	}
	defer done()
	byHand, err := datapath.ReadMode(v.datapath.ModeByHand)
	if err != nil {
		return nil, err
	}
	s := v.figures
	s.Mode = datapath.ModeInForce(byHand, v.mode)
	s.RPFilterDrops = counters.RPFilterDrops()
	s.Interfaces, err = l.interfaceFigures(v)
	if err != nil {
		return nil, err
	}
	return &s, counters.Fill(&s, v.datapath, v.names, v.forgotten)
}

// errClosed says that a Loader is of no more use.
var errClosed = errors.New("the datapath is closed")

// interfaceFigures are of those that are managed now, by index, and then of those that are missing.
func (l *Loader) interfaceFigures(v *view) ([]metrics.Interface, error) {
	var list []metrics.Interface
	for _, s := range v.interfaces {
		hooks, err := counters.ReadHooks(l.attacher, s.Interface)
		if err != nil {
			return nil, err
		}
		i := metrics.Interface{Name: s.Name, Up: s.up, Hooks: hooks}
		if _, _, effective, err := hostsettings.RPFilter(s.Name); err == nil {
			i.RPFilter = &effective
		}
		list = append(list, i)
	}
	for _, name := range v.missing {
		list = append(list, metrics.Interface{Name: name, Hooks: counters.MissingHooks()})
	}
	return list, nil
}

// missingNow returns the missing names but for those that an interface has got since they were looked for.
func (l *Loader) missingNow() []string {
	return slices.DeleteFunc(slices.Clone(l.missing), func(name string) bool {
		return slices.ContainsFunc(l.inOrder(), func(s *served) bool { return s.Name == name })
	})
}

// Unattached names the managed interfaces that lack one of their programs, and says which of them do
// not exist.
func (l *Loader) Unattached() ([]string, error) {
	v, done, err := l.viewNow()
	if err != nil {
		return nil, err
	}
	defer done()
	var names []string
	for _, s := range v.interfaces {
		complete, err := l.isAttached(s.Interface)
		if err != nil {
			return nil, err
		}
		if !complete {
			names = append(names, s.Name)
		}
	}
	for _, name := range v.missing {
		names = append(names, name+" (no such interface)")
	}
	return names, nil
}

// Notices says what is attached in vain, although everything that can be is attached.
func (l *Loader) Notices() []string {
	if v := l.view.Load(); v != nil {
		return v.notices
	}
	return nil
}

// Effect looks at what is attached now.
func (l *Loader) Effect() (*status.Effect, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == nil {
		return nil, errClosed
	}
	e, err := status.ReadEffect(l.options.PinDir, &l.state, &l.datapath.DatapathMaps, l.netlink)
	if err != nil {
		return nil, err
	}
	e.Detaching = detach.IsAnnounced(l.options.PinDir)
	return e, nil
}
