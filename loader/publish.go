// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/gateways"
	"replypath/loader/identity"
	"replypath/loader/interfaces"
	"replypath/loader/view"
	"replypath/metrics"
)

// publish shows the state as it is now.
func (l *core) publish() {
	if l.dir == nil {
		return // closed
	}
	v := &view.View{
		Datapath: l.datapath, Mode: l.state.Mode, Missing: missingNow(l.last.missing, l.interfaces.All()),
		Names: identity.Names(l.state.Interfaces), Refused: l.state.ConfigErr, Problems: l.problems.All(),
		Missed: l.state.Missed(),
		Figures: metrics.Snapshot{
			ReloadFailed:   l.state.ConfigErr != "",
			ReloadSuccess:  l.state.LoadedAt,
			Gateways:       gatewayFigures(l.gateways.All(), l.interfaces.NameOf),
			HostRepairs:    maps.Clone(l.state.Repairs),
			FallbackActive: metrics.Families{IPv4: l.routes.IsActive(unix.AF_INET), IPv6: l.routes.IsActive(unix.AF_INET6)},
		},
	}
	for _, f := range l.state.Features {
		v.Figures.Features = append(v.Figures.Features, metrics.Feature{Name: f.Name, Available: f.Available})
	}
	for _, m := range l.interfaces.All() {
		v.Interfaces = append(v.Interfaces, view.Interface{Interface: m.Target(), Up: m.Up, HasAddress: len(m.Addresses) > 0})
	}
	l.published.Publish(v)
}

// missingNow returns the missing names but for those that an interface has got since they were looked for.
func missingNow(missing []string, managed []*interfaces.Managed) []string {
	return slices.DeleteFunc(slices.Clone(missing), func(name string) bool {
		return slices.ContainsFunc(managed, func(m *interfaces.Managed) bool { return m.Name == name })
	})
}

// gatewayFigures are by interface and address.
func gatewayFigures(all []*gateways.View, nameOf func(index int) string) []metrics.Gateway {
	slices.SortFunc(all, func(a, b *gateways.View) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Address.Compare(b.Address))
	})
	var list []metrics.Gateway
	for _, g := range all {
		list = append(list, metrics.Gateway{Interface: nameOf(g.Interface), Address: g.Address, Reachable: g.Answers})
	}
	return list
}
