package loader

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/detach"
	"replypath/loader/gateways"
	"replypath/loader/identity"
	"replypath/loader/interfaces"
	"replypath/loader/status"
	"replypath/loader/view"
	"replypath/metrics"
)

// publish shows the state as it is now.
func (l *Loader) publish() {
	if l.dir == nil {
		return // closed
	}
	v := &view.View{
		Datapath: l.datapath, Mode: l.state.Mode, Missing: l.missingNow(),
		Names: identity.Names(l.state.Interfaces), Forgotten: l.state.Forgotten,
		Notices: l.problems.Of(scopeAstray),
		Figures: metrics.Snapshot{
			ReloadFailed:   l.state.ConfigErr != "",
			ReloadSuccess:  l.state.LoadedAt,
			Gateways:       l.gatewayFigures(),
			HostRepairs:    repairFigures(l.state.Repairs),
			FallbackActive: metrics.Families{IPv4: l.routes.IsActive(unix.AF_INET), IPv6: l.routes.IsActive(unix.AF_INET6)},
		},
	}
	for _, f := range l.state.Features {
		v.Figures.Features = append(v.Figures.Features, metrics.Feature{Name: f.Name, Available: f.Available})
	}
	for _, m := range l.interfaces.All() {
		v.Interfaces = append(v.Interfaces, view.Interface{Interface: m.Target(), Up: m.Up})
	}
	l.published.Publish(v)
}

// missingNow returns the missing names but for those that an interface has got since they were looked for.
func (l *Loader) missingNow() []string {
	return slices.DeleteFunc(slices.Clone(l.last.missing), func(name string) bool {
		return slices.ContainsFunc(l.interfaces.All(), func(m *interfaces.Managed) bool { return m.Name == name })
	})
}

// gatewayFigures are by interface and address.
func (l *Loader) gatewayFigures() []metrics.Gateway {
	all := l.gateways.All()
	slices.SortFunc(all, func(a, b *gateways.View) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Address.Compare(b.Address))
	})
	var list []metrics.Gateway
	for _, g := range all {
		list = append(list, metrics.Gateway{Interface: l.interfaces.NameOf(g.Interface), Address: g.Address, Reachable: g.Answers})
	}
	return list
}

// Effect looks at what is attached now.
func (l *Loader) Effect() (*status.Effect, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == nil {
		return nil, view.ErrClosed
	}
	e, err := status.ReadEffect(l.options.PinDir, &l.state, &l.datapath.DatapathMaps, l.netlink)
	if err != nil {
		return nil, err
	}
	e.Detaching = detach.IsAnnounced(l.options.PinDir)
	return e, nil
}
