// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/loader/discover"
	"replypath/loader/hostmaps"
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/problems"
	"replypath/loader/sourcerepair"
	"replypath/loader/status"
	"replypath/loader/undo"
	"replypath/loader/ways"
)

// reconcile makes what is attached and what the maps hold fit the configuration
// and the network namespace.
//
// What cannot be done for one interface does not keep the others from being
// served: it becomes a problem and is tried again. An error means that the
// namespace could not be read, and nothing was done, or that the journal could
// not be written.
func (l *core) reconcile() error {
	defer l.publish()
	r := reconciliation{core: l}
	if err := problems.Caught(r.read); err != nil {
		return err
	}
	r.describe(r.arrange())
	return l.save()
}

// reconciliation is one in progress.
type reconciliation struct {
	*core
	host    discover.Result
	managed []discover.Interface
	routers nexthop.Routers
}

// read reads the host. Nothing is changed where that fails.
func (r *reconciliation) read() (err error) {
	begun := time.Now()
	served := func(index int) *discover.Interface {
		if m := r.interfaces.Get(index); m != nil {
			return &m.Interface
		}
		return nil
	}
	if err = r.table.ReadIfDue(); err != nil {
		return err
	}
	if r.host, err = discover.ScanServed(r.netlink, r.config, served, r.table.Routes()); err != nil {
		return err
	}
	r.managed = r.interfaces.WithoutClashes(&r.host)
	for n := range r.managed {
		i := &r.managed[n]
		i.TakesAll4, i.TakesAll6 = hostsettings.ForwardsNothing(i.Name)
		i.Strict = hostsettings.IsStrict(i.Name)
	}
	if r.routers, err = nexthop.Find(r.netlink, r.managed, &r.table); err != nil {
		return err
	}
	r.last = findings{
		missing: r.last.missing, own: r.host.Own, bystanders: r.host.Bystanders, headerless: r.host.Headerless, readingTook: time.Since(begun),
	}
	return nil
}

// arrange has each owner do its part. The order matters: programs find their tables
// complete when they are attached, and are detached before their entries go.
func (r *reconciliation) arrange() []error {
	var errs []error
	try := func(err error) { errs = append(errs, err) }
	served, err := r.interfaces.Release(slices.Concat(r.managed, r.host.Caught))
	try(err)
	try(r.interfaces.Adopt(served, r.byHand))
	try(r.restoreObserved())
	r.noteSource(r.source.Reconcile(r.wantedSource()))
	try(r.gateways.Track(&r.routers))
	try(r.maps.OnLink.Sync(hostmaps.OnLinkNetworks(r.host.OnLink)))
	try(r.syncOwn())
	try(r.writeSettings())
	try(r.writeWays())
	try(r.verifyIfDue())
	try(r.attachAll())
	try(r.gateways.AttachHeld())
	try(r.tendRPFilter())
	r.tendFallback()
	try(r.gone.Drop(&r.state, r.datapath))
	return errs
}

// mostUnmanaged bounds the journal: a container host may have thousands of interfaces that are left alone.
const mostUnmanaged = 1000

// describe notes for the status what was found, and what could not be done.
func (r *reconciliation) describe(errs []error) {
	r.state.WouldChange = r.last.would
	r.describeFeatures()
	r.state.Unmanaged = r.host.Unmanaged[:min(len(r.host.Unmanaged), mostUnmanaged)]
	r.last.missing = r.host.Missing
	r.problems.Replace(scopeHost, slog.LevelError, problems.Messages(errs...))
	r.problems.Replace(scopeWarning, slog.LevelWarn, slices.Concat(r.host.Warnings,
		ways.Unkept(r.interfaces.All(), r.gateways.All(), r.interfaces.NameOf), r.blindByRPFilter()))
}

// idOf is the id of a managed device, 0 for any other.
func (r *reconciliation) idOf(device int) uint16 {
	if m := r.interfaces.Get(device); m != nil {
		return m.ID
	}
	return 0
}

// syncOwn writes the host's addresses, and those that it serves although no interface has them.
func (r *reconciliation) syncOwn() error {
	translated, err := r.rules.Translated()
	return errors.Join(err,
		r.maps.Own.Sync(hostmaps.OwnAddresses(&r.host, r.config.Addresses, r.idOf)),
		r.maps.WriteServed(hostmaps.ServedAddresses(&r.host, translated, r.config.Addresses)))
}

// verifyIfDue verifies what is attached when the slow timer or lost events ask
// for it.
func (r *reconciliation) verifyIfDue() error {
	due := r.verifying
	r.verifying = false
	if !due {
		return nil
	}
	return r.attachments.Verify(r.interfaces.Targets())
}

// writeWays writes the gateways and the interfaces.
func (l *core) writeWays() error {
	return l.maps.WriteWays(ways.Of(l.interfaces.Served(), l.attachments, l.gateways.All()))
}

// writeSettings writes the configuration to where the programs read it.
func (l *core) writeSettings() error {
	return l.maps.WriteSettings(l.config, l.source.State(), l.datapath.InGrace)
}

// attachAll attaches to the managed and caught interfaces that have no programs of this process yet, and tells the programs which
// those are: what was moved to one of them before is not taken for lost.
func (l *core) attachAll() error {
	targets := l.interfaces.Targets()
	isNew := slices.ContainsFunc(targets, func(i attachment.Interface) bool { return !l.attachments.IsAttached(i.Index) })
	err := l.attachments.Attach(targets...)
	l.datapath.AddMissed()
	if isNew {
		err = errors.Join(err, l.writeWays())
	}
	return err
}

// scopeSource is of problems with the source repair.
const scopeSource = "source"

// describeFeatures fills in what the status says of features.
func (l *core) describeFeatures() {
	l.state.Features = append(l.kernel.Records(l.mechanism() == attach.TCX), l.source.Feature(), l.routes.Feature())
}

// wantedSource is what the source repair is to bring about. The own addresses are those of the last reconciliation.
func (l *core) wantedSource() sourcerepair.Want {
	return sourcerepair.Want{Config: l.config, Enforces: len(l.interfaces.Enforced()) > 0, Own: l.last.own, Datapath: l.datapath}
}

// noteSource makes what the source repair cannot do a problem.
func (l *core) noteSource(err error) {
	l.problems.Replace(scopeSource, slog.LevelWarn, problems.Messages(err))
	l.describeFeatures()
}

// scopeFallback is of problems with the fallback routes.
const scopeFallback = "fallback"

// tendFallback makes the fallback routes and their device, or takes them away. What cannot be done becomes a problem.
func (r *reconciliation) tendFallback() {
	err := r.routes.Reconcile(&r.routers)
	device, bound := r.routes.Planned()
	if device {
		r.wouldChange(status.DeviceChange())
	}
	r.wouldChange(status.BoundChanges(bound)...)
	r.problems.Replace(scopeFallback, slog.LevelWarn, problems.Messages(err))
}

func (l *core) reconcileOrLog() (done bool) {
	err := l.reconcile()
	problems.LogStack(l.log, err)
	l.problems.Replace(scopeNamespace, slog.LevelError, problems.Messages(err))
	return err == nil
}

// reconcilePostponed does what a reconciliation has put off.
func (l *core) reconcilePostponed() {
	if l.tx.Postponed() {
		l.reconcileOrLog()
	}
}

// tendRPFilter makes a strict rp_filter loose on every served interface, or puts
// it back where that is not wanted any more.
func (r *reconciliation) tendRPFilter() error {
	if !r.config.ManageRPFilter {
		return r.sysctls.Restore(func(s pins.SysctlRecord) bool { return undo.SettingOf(s).Leaf == "rp_filter" })
	}
	var errs []error
	for _, s := range r.interfaces.Tended() {
		change, err := hostsettings.PlanRPFilter(s.Name)
		made, err := r.keepSysctl(change, err)
		errs = append(errs, err)
		if made {
			r.log.Info("strict rp_filter made loose", "interface", s.Name, "before", change.Before, "undo", change.Undo())
		}
	}
	return errors.Join(errs...)
}

// blindByRPFilter warns of interfaces that only observe, where the kernel drops what there would be to see.
func (r *reconciliation) blindByRPFilter() (warnings []string) {
	for _, s := range r.interfaces.Tended() {
		if !s.Enforces() && hostsettings.IsStrict(s.Name) {
			warnings = append(warnings, hostsettings.Blind(s.Name)+": the kernel drops what arrives if the route back leads by another interface, "+
				"and replypath does not see it")
		}
	}
	return warnings
}

// noLongerChanged are sysctls that earlier versions changed, so that default routes gave way to the fallback routes.
var noLongerChanged = []string{"ignore_routes_with_linkdown", "ndisc_evict_nocarrier", "router_probe_interval"}

// restoreObserved puts back what was changed of interfaces that only observe now, or for which nothing is, and what an
// earlier version changed.
func (r *reconciliation) restoreObserved() error {
	return r.sysctls.Restore(func(s pins.SysctlRecord) bool {
		m := r.interfaces.Get(s.Interface)
		return m != nil && (!m.Enforces() || m.IsUntended()) || slices.Contains(noLongerChanged, undo.SettingOf(s).Leaf)
	})
}
