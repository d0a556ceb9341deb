package loader

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/nexthop"
	"replypath/loader/status"
	"replypath/metrics"
)

// Snapshot reads every figure. What is counted began when the pins were made and never goes backwards while they stand.
// All reasons that there are have an entry.
func (l *Loader) Snapshot() (*metrics.Snapshot, error) {
	l.mu.Lock()
	s, err := l.describe()
	names, forgotten := identity.Names(l.state.Interfaces), l.state.Forgotten
	d := l.datapath
	l.reading.RLock() // before mu is given up: Reload and Close take both
	l.mu.Unlock()
	defer l.reading.RUnlock()
	if err != nil {
		return nil, err
	}
	return s, counters.Fill(s, d, names, forgotten)
}

// errClosed says that a Loader is of no more use.
var errClosed = errors.New("the datapath is closed")

// describe fills in what is known without the maps of counters.
func (l *Loader) describe() (*metrics.Snapshot, error) {
	if l.dir == nil {
		return nil, errClosed
	}
	byHand, err := datapath.ReadMode(l.datapath.ModeByHand)
	if err != nil {
		return nil, err
	}
	repairs := l.state.Repairs
	s := &metrics.Snapshot{
		Mode:          datapath.ModeInForce(byHand, l.state.Mode),
		ReloadFailed:  l.state.ConfigErr != "",
		ReloadSuccess: l.state.LoadedAt,
		Gateways:      l.gatewayFigures(),
		RPFilterDrops: counters.RPFilterDrops(),
		HostRepairs: metrics.HostRepairs{
			Route: repairs[repairRoute], Sysctl: repairs[repairSysctl],
			Program: repairs[repairProgram], Neighbour: repairs[repairNeighbour],
		},
		FallbackActive: metrics.Families{IPv4: l.isFallbackActive(unix.AF_INET), IPv6: l.isFallbackActive(unix.AF_INET6)},
	}
	for _, f := range l.state.Features {
		s.Features = append(s.Features, metrics.Feature{Name: f.Name, Available: f.Available})
	}
	s.Interfaces, err = l.interfaceFigures()
	return s, err
}

// interfaceFigures are of those that are managed now, by index, and then of those that are missing.
func (l *Loader) interfaceFigures() ([]metrics.Interface, error) {
	var list []metrics.Interface
	for _, s := range l.inOrder() {
		hooks, err := counters.ReadHooks(l.attacher, s.target())
		if err != nil {
			return nil, err
		}
		i := metrics.Interface{Name: s.Name, Up: s.Up, Hooks: hooks}
		if _, _, effective, err := hostsettings.RPFilter(s.Name); err == nil {
			i.RPFilter = &effective
		}
		list = append(list, i)
	}
	for _, name := range l.missingNow() {
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

// answers tells whether the last word of a gateway's entry is that it is there, and is not ours.
func (g *gateway) answers() bool {
	return nexthop.Usable(g.State) && !g.held && !g.isUnanswered(&g.Gateway)
}

// gatewayFigures are by interface and address.
func (l *Loader) gatewayFigures() []metrics.Gateway {
	var list []metrics.Gateway
	for _, key := range slices.SortedFunc(maps.Keys(l.gateways), compareGateways) {
		list = append(list, metrics.Gateway{
			Interface: l.nameOf(key.device), Address: key.address, Reachable: l.gateways[key].answers(),
		})
	}
	return list
}

// Unattached names the managed interfaces that lack one of their programs, and says which of them do
// not exist.
func (l *Loader) Unattached() ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == nil {
		return nil, errClosed
	}
	var names []string
	for _, s := range l.inOrder() {
		complete, err := l.isAttached(s.target())
		if err != nil {
			return nil, err
		}
		if !complete {
			names = append(names, s.Name)
		}
	}
	for _, name := range l.missingNow() {
		names = append(names, name+" (no such interface)")
	}
	return names, nil
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
	e.Detaching = isDetaching(l.options.PinDir)
	return e, nil
}
