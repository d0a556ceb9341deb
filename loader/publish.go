// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/counters"
	"replypath/loader/gateways"
	"replypath/loader/identity"
	"replypath/loader/interfaces"
	"replypath/loader/pins"
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
		Missed:  l.state.Missed(),
		Figures: figures(&l.state, l.routes.IsActive), Gateways: shownGateways(l.gateways.All(), l.interfaces.NameOf),
		Repairs: maps.Clone(l.state.Repairs),
	}
	for _, m := range l.interfaces.All() {
		v.Interfaces = append(v.Interfaces, view.Interface{Interface: m.Target(), Up: m.Up, HasAddress: len(m.Addresses) > 0})
	}
	l.published.Publish(v)
}

// figures are those that are known without the maps.
func figures(state *pins.Journal, isActive func(family int) bool) (s metrics.Samples) {
	s.AddBool(counters.ReloadSuccessful, state.ConfigErr == "")
	if !state.LoadedAt.IsZero() {
		s.Add(counters.ReloadSuccessTime, float64(state.LoadedAt.UnixMilli())/1000)
	}
	s.AddBool(counters.FallbackActive, isActive(unix.AF_INET), "ipv4")
	s.AddBool(counters.FallbackActive, isActive(unix.AF_INET6), "ipv6")
	for _, f := range state.Features {
		s.AddBool(counters.KernelFeature, f.Available, f.Name)
	}
	return s
}

// missingNow returns the missing names but for those that an interface has got since they were looked for.
func missingNow(missing []string, managed []*interfaces.Managed) []string {
	return slices.DeleteFunc(slices.Clone(missing), func(name string) bool {
		return slices.ContainsFunc(managed, func(m *interfaces.Managed) bool { return m.Name == name })
	})
}

// shownGateways are by interface and address.
func shownGateways(all []*gateways.View, nameOf func(index int) string) (list []view.Gateway) {
	for _, g := range all {
		list = append(list, view.Gateway{Interface: nameOf(g.Interface), Address: g.Address, Reachable: g.Answers})
	}
	return list
}
