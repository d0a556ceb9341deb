// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/time/rate"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/fallback"
	"replypath/loader/flows"
	"replypath/loader/gateways"
	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/interfaces"
	"replypath/loader/pins"
	"replypath/loader/problems"
	"replypath/loader/sourcerepair"
	"replypath/loader/status"
	"replypath/loader/undo"
	"replypath/loader/view"
)

// newAllowance bounds how often what somebody takes away is put back at once. Two
// who answer each other would never come to an end, and a clsact qdisc that is
// added costs packets each time: after a few in a row it has to wait for the slow
// timer.
func newAllowance() *rate.Limiter { return rate.NewLimiter(rate.Every(slowInterval/2), 5) }

// The owners ask for what a start has not opened yet, or a reload replaces, when they need it.
func (o *opened) netlinkNow() *netlink.Handle     { return o.netlink }
func (o *opened) datapathNow() *datapath.Datapath { return o.datapath }
func (o *opened) linksDir() string                { return o.dir.Path(datapath.LinksDir) }

func newCore(options Options) *core {
	c := &core{
		options: options,
		config:  options.Config,
		log:     options.Log,
		wake:    make(chan struct{}, 1),
		record:  record{problems: problems.New(options.Log)},

		pinRepairs: newAllowance(),
	}
	c.published.Pass()
	c.appointOwners()
	return c
}

// appointOwners makes those who own a part of the state.
func (l *core) appointOwners() {
	means := func() attach.Means { return l.attacher }
	l.published.Attacher = func() attach.Means { return attach.New(l.linksDir(), l.readers, l.options.Mechanism) }
	l.sysctls = &undo.Sysctls{
		Records: &l.state.Sysctls, Save: l.save, Identities: l.identities, Tx: &l.tx, Log: l.log,
		Repaired: l.counting(repairSysctl), Allowance: newAllowance,
	}
	l.source = sourcerepair.New(sourcerepair.Host{
		Links: l.linksDir, Journal: &l.state, Tx: &l.tx, Log: l.log,
		Repaired: l.counting(repairProgram), WouldChange: l.wouldChange, Allowance: newAllowance(),
	}, l.config)
	qdiscs := &undo.Qdiscs{
		Records: &l.state.Qdiscs, Save: l.save, Tx: &l.tx, Host: means,
	}
	l.attachments = attachment.New(attachment.Host{
		Netlink: l.netlinkNow, Datapath: l.datapathNow,
		Attacher:   means,
		AttacherBy: func(m attach.Mechanism) *attach.Attacher { return attach.New(l.linksDir(), l.netlink, m) },
		Mechanism:  l.mechanism, Log: l.log, Tx: &l.tx, Journal: &l.state,
		Qdiscs:   qdiscs,
		Fresh:    func() bool { return l.fresh },
		Attached: func(index int) { l.gateways.ProgramsLost(index) },
		Repaired: l.counting(repairProgram), Allowance: newAllowance,
	})
	l.interfaces = interfaces.New(interfaces.Host{
		Netlink: l.netlinkNow, Datapath: l.datapathNow, Attachments: l.attachments,
		Sysctls: l.sysctls, Qdiscs: qdiscs, Tx: &l.tx, Journal: &l.state, Log: l.log, Identities: l.identities,
		ModeChanged: func(index int) { l.gateways.ModeChanged(index) }, Forget: l.forgetInterface,
	})
	l.routes = fallback.New(fallback.Host{
		Netlink: l.netlinkNow, Datapath: l.datapathNow,
		Attacher:   means,
		Enabled:    func() bool { return l.config.FallbackRoute },
		Interfaces: l.fallbackInterfaces, NameOf: l.interfaces.NameOf,
		Gateways:  func(device int) []*gateways.View { return l.gateways.Of(device) },
		Protocols: func() []uint8 { return l.config.Protocols },
		Tx:        &l.tx, Journal: &l.state, Save: l.save, Log: l.log,
		AttachAgain:   l.attachments.AttachingAgain,
		RepairedRoute: l.counting(repairRoute), RepairedPrograms: l.counting(repairProgram),
		Allowance: newAllowance, RetryAfter: slowInterval / 2,
	})
	l.gateways = gateways.New(gateways.Host{
		Netlink: l.netlinkNow, Datapath: l.datapathNow,
		Attacher: means,
		Log:      l.log, Tx: &l.tx, Sysctls: l.sysctls, Journal: &l.state, Save: l.save,
		Interface: l.gatewayInterface, NameOf: l.interfaces.NameOf, ChangeSysctl: l.keepSysctl,
		Repaired:      l.counting(repairNeighbour),
		WantsFallback: l.routes.Wanted, Defaults: l.routes.Defaults, Renew: l.routes.Renew,
	})
}

// identities tells the recorded interfaces from others.
func (l *core) identities() *identity.Resolver {
	return &identity.Resolver{
		Records: l.state.Interfaces, Devices: datapath.DevicesIn(l.datapath.Devices), Netlink: l.netlink, Log: l.log,
	}
}

// mechanism is what attaching is going to choose.
func (l *core) mechanism() attach.Mechanism {
	switch {
	case l.options.Mechanism != attach.Auto:
		return l.options.Mechanism
	case l.kernel.TCX:
		return attach.TCX
	}
	return attach.Clsact
}

// gatewayInterface is what of an interface decides about its gateways.
func (l *core) gatewayInterface(index int) gateways.Interface {
	m := l.interfaces.Get(index)
	if m == nil {
		return gateways.Interface{}
	}
	return gateways.Interface{
		Interface: m.Target(), Up: m.Up, Enforces: m.Enforces(), HasHeader: m.HasHeader(),
		Attached: l.attachments.IsAttached(index), Addresses: m.Addresses,
	}
}

// forgetInterface deletes what was counted for the id of an interface that is gone, and what handshakes by it taught.
func (l *core) forgetInterface(id uint16) error {
	if _, err := flows.ForgetSenders(&l.datapath.Maps, func(s bpf.DatapathSender) bool { return s.Interface == id }); err != nil {
		return err
	}
	return l.published.WithoutReaders(func() error { // they would show it as the next one's
		l.published.Amend(func(v *view.View) { v.Names = identity.Names(l.state.Interfaces) })
		return counters.Forget(&l.datapath.Maps, id)
	})
}

// fallbackInterfaces are the managed interfaces that may be changed.
func (l *core) fallbackInterfaces() []fallback.Interface {
	var list []fallback.Interface
	for _, m := range l.interfaces.Tended() {
		list = append(list, fallback.Interface{Interface: m.Interface, Enforces: m.Enforces()})
	}
	return list
}

// keepSysctl makes a planned change, and tells whether it is the first time. Of an interface that only observes it is noted
// as what enforcing would change. An interface that has just gone, or without the family, is no error.
func (l *core) keepSysctl(change *hostsettings.Change, err error) (made bool, _ error) {
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if change == nil || err != nil {
		return false, err
	}
	if !l.interfaces.Get(change.Interface).Enforces() {
		l.wouldChange(status.SysctlChange(change))
		return false, nil
	}
	return l.sysctls.Keep(change)
}

// wouldChange notes what enforcing would change on the host. What is changed only while a gateway is silent is not among it.
func (l *core) wouldChange(changes ...status.HostChange) {
	for _, c := range changes {
		l.last.would = append(l.last.would, pins.ChangeRecord{Object: c.Object, Before: c.Before, After: c.After})
	}
}
