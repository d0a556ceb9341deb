package loader

import (
	"log/slog"

	"github.com/vishvananda/netlink"

	"replypath/loader/datapath"
	"replypath/loader/fallback"
	"replypath/loader/gateways"
	"replypath/loader/nexthop"
	"replypath/loader/status"
)

// scopeFallback is of problems with the fallback routes.
const scopeFallback = "fallback"

// newRoutes returns the owner of the fallback routes and of their device.
func (l *Loader) newRoutes() *fallback.Routes {
	return fallback.New(fallback.Host{
		Netlink:    func() *netlink.Handle { return l.netlink },
		Datapath:   func() *datapath.Datapath { return l.datapath },
		Attacher:   func() fallback.Attacher { return l.attacher },
		Enabled:    func() bool { return l.config.FallbackRoute },
		Interfaces: l.fallbackInterfaces, NameOf: l.nameOf,
		Gateways: func(device int) []*gateways.View { return l.gateways.Of(device) },
		Tx:       &l.tx, Sysctls: l.sysctls, Journal: &l.state, Save: l.save, Log: l.log,
		ChangeSysctl: l.keepSysctl, AttachAgain: l.attachingAgain,
		RepairedRoute:    func() { l.countRepair(repairRoute) },
		RepairedPrograms: func() { l.countRepair(repairProgram) },
		Allowance:        newAllowance, RetryAfter: slowInterval / 2,
	})
}

// fallbackInterfaces are the served interfaces.
func (l *Loader) fallbackInterfaces() []fallback.Interface {
	var list []fallback.Interface
	for _, s := range l.inOrder() {
		list = append(list, s.ofFallback())
	}
	return list
}

func (s *served) ofFallback() fallback.Interface {
	return fallback.Interface{Interface: s.Interface, Enforces: s.enforces()}
}

// tendFallback makes the fallback routes and their device, or takes them away. What cannot be done becomes a problem.
func (l *Loader) tendFallback(routers *nexthop.Routers) {
	err := l.routes.Reconcile(routers)
	device, bound := l.routes.Planned()
	if device {
		l.wouldChange(status.DeviceChange())
	}
	l.wouldChange(status.BoundChanges(bound)...)
	l.problems.replace(scopeFallback, slog.LevelWarn, messages([]error{err}))
}
