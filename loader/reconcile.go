// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"replypath/loader/attachment"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/fallback"
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
	if err := r.read(); err != nil {
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
	astray  []string
}

// read reads the host. Nothing is changed where that fails.
func (r *reconciliation) read() (err error) {
	begun := time.Now()
	isManaged := func(index int) bool { return r.interfaces.Get(index) != nil }
	if err = r.table.ReadIfDue(); err != nil {
		return err
	}
	if r.host, err = discover.ScanServed(r.netlink, r.config, isManaged, r.table.Routes()); err != nil {
		return err
	}
	r.managed = r.interfaces.WithoutClashes(&r.host)
	if r.routers, err = nexthop.Find(r.netlink, r.managed, &r.table); err != nil {
		return err
	}
	astray, err := r.host.Astray(r.netlink)
	if err != nil {
		return err
	}
	for n := range astray {
		r.astray = append(r.astray, astray[n].String())
	}
	r.last = findings{missing: r.last.missing, own: r.host.Own, bystanders: r.host.Bystanders, readingTook: time.Since(begun)}
	return nil
}

// arrange has each owner do its part. The order matters: programs find their tables
// complete when they are attached, and are detached before their entries go.
func (r *reconciliation) arrange() []error {
	var errs []error
	try := func(err error) { errs = append(errs, err) }
	managed, err := r.interfaces.Release(r.managed)
	try(err)
	r.attachments.ExpireWatched(time.Now())
	try(r.interfaces.Adopt(managed, r.byHand))
	try(r.restoreObserved())
	r.noteSource(r.source.Reconcile(r.wantedSource()))
	try(r.gateways.Track(&r.routers))
	try(r.maps.OnLink.Sync(hostmaps.OnLinkNetworks(r.host.OnLink)))
	try(r.syncOwn())
	try(r.writeSettings())
	try(r.writeWays())
	try(r.maps.Managed.Sync(r.interfaces.Entries()))
	try(r.verifyIfDue())
	try(r.attachAll())
	try(r.gateways.AttachHeld())
	try(r.tendRPFilter())
	r.tendFallback()
	return errs
}

// describe notes for the status what was found, and what could not be done.
func (r *reconciliation) describe(errs []error) {
	r.state.WouldChange = r.last.would
	r.describeFeatures()
	r.state.Unmanaged = unmanagedRecords(r.host.Unmanaged)
	r.last.missing = r.host.Missing
	r.problems.Replace(scopeHost, slog.LevelError, problems.Messages(errs...))
	r.problems.Replace(scopeWarning, slog.LevelWarn, slices.Concat(r.host.Warnings, r.unservedPrefixes(),
		ways.Unkept(r.interfaces.All(), r.gateways.All(), r.interfaces.NameOf), r.blindByRPFilter()))
	r.problems.Replace(scopeAstray, slog.LevelWarn, r.astray)
}

// idOf is the index into the map `interfaces` of a managed device, 0 for any other.
func (r *reconciliation) idOf(device int) uint16 {
	if m := r.interfaces.Get(device); m != nil {
		return m.ID
	}
	return 0
}

// syncOwn writes the host's addresses. The programs enter those themselves that have just come
// (bpf/src/come.h): now and then it is looked for one that has gone again before anybody else knew it.
func (r *reconciliation) syncOwn() error {
	if r.verifying {
		if err := r.maps.Own.Read(); err != nil {
			return err
		}
	}
	own, _ := hostmaps.OwnAddresses(&r.host, r.idOf)
	return r.maps.Own.Sync(own)
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

// unservedPrefixes warns of local routes whose addresses are not taken for the
// host's own. With lo's left to the kernel, it makes no difference for those.
func (r *reconciliation) unservedPrefixes() (warnings []string) {
	_, left := hostmaps.OwnAddresses(&r.host, r.idOf)
	for _, p := range left {
		ignored := p.LoopbackOnly && r.config.LoopbackAddresses == config.LoopbackKernel
		if r.config.Scope == config.ScopeLocal && !ignored {
			warnings = append(warnings, fmt.Sprintf(
				"local route %s is too large to be served: use prefixes of at most 256 addresses, or scope: all", p.Prefix))
		}
	}
	return warnings
}

// mostUnmanaged bounds the journal: a container host may have thousands of
// interfaces that are left alone.
const mostUnmanaged = 1000

func unmanagedRecords(found []discover.Unmanaged) []pins.UnmanagedRecord {
	var records []pins.UnmanagedRecord
	for _, u := range found[:min(len(found), mostUnmanaged)] {
		records = append(records, pins.UnmanagedRecord{Name: u.Name, Reason: u.Reason})
	}
	return records
}

// writeWays writes the gateways and the interfaces.
func (l *core) writeWays() error {
	return l.maps.WriteWays(ways.Of(l.interfaces.All(), l.attachments, l.gateways.All()))
}

// writeSettings writes the configuration to where the programs read it.
func (l *core) writeSettings() error {
	return l.maps.WriteSettings(l.config, l.source.State(), func(put func() error) error {
		return l.attachments.WhileWatched(put, l.interfaces.Targets()...)
	})
}

// attachAll attaches to the managed interfaces that have no programs of this process yet, and tells the programs which
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
	l.state.Features = append(l.kernel.Records(), l.source.Feature(), l.routes.Feature())
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
	for _, s := range r.interfaces.All() {
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
	for _, s := range r.interfaces.Observed() {
		_, _, effective, err := hostsettings.RPFilter(s.Name)
		if err == nil && effective == hostsettings.RPFilterStrict {
			warnings = append(warnings, fmt.Sprintf("interface %s only observes, and its rp_filter is strict: the kernel drops "+
				"what arrives if the route back leads by another interface, and replypath does not see it", s.Name))
		}
	}
	return warnings
}

// restoreObserved puts back what was changed of interfaces that only observe now. What gives way is
// the fallback routes' owner's, which has sockets notice.
func (r *reconciliation) restoreObserved() error {
	return r.sysctls.Restore(func(s pins.SysctlRecord) bool {
		m := r.interfaces.Get(s.Interface)
		return m != nil && !m.Enforces() && !fallback.IsGivingWay(s)
	})
}
