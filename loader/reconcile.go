package loader

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/hostmaps"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

// reconcile makes what is attached and what the maps hold fit the configuration
// and the network namespace. The order matters: programs find their tables
// complete when they are attached, and are detached before their entries go.
//
// What cannot be done for one interface does not keep the others from being
// served: it becomes a problem and is tried again. An error means that the
// namespace could not be read, and nothing was done, or that the journal could
// not be written.
func (l *Loader) reconcile() error {
	defer l.publish()
	begun := time.Now()
	found, err := discover.ScanServed(l.netlink, l.config, func(index int) bool { return l.served[index] != nil })
	if err != nil {
		return err
	}
	managed := l.withoutClashes(&found)
	routers, err := nexthop.Find(l.netlink, managed)
	if err != nil {
		return err
	}
	astray, err := l.astray(&found)
	if err != nil {
		return err
	}
	l.readingTook = time.Since(begun)
	own, left := hostmaps.OwnAddresses(&found)
	managed, releaseErr := l.release(managed)
	for _, s := range l.served {
		s.forgetWatched(begun)
	}
	errs := []error{releaseErr, l.adopt(managed), l.restoreObserved()}
	l.would = nil
	l.ownAddresses = found.Own
	l.noteSource(l.source.Reconcile(l.wantedSource()))
	errs = append(errs,
		l.gateways.Track(&routers),
		l.maps.OnLink.Sync(hostmaps.OnLinkNetworks(found.OnLink)),
		l.syncOwn(own),
		l.writeSettings(),
		l.writeGateways(),
		l.maps.Managed.Sync(l.managedEntries()),
		l.verifyIfDue(),
		l.attachAll(),
		l.gateways.AttachHeld(),
		l.tendRPFilter(),
	)
	l.tendFallback(&routers)
	l.state.WouldChange = l.would
	l.describeFeatures()
	l.state.Unmanaged = unmanagedRecords(found.Unmanaged)
	l.missing = found.Missing
	l.problems.replace(scopeHost, slog.LevelError, messages(errs))
	l.problems.replace(scopeWarning, slog.LevelWarn, slices.Concat(found.Warnings, l.unservedPrefixes(left), l.unkeptRoutes(), l.blindByRPFilter()))
	l.problems.replace(scopeAstray, slog.LevelWarn, astray)
	return l.save()
}

// syncOwn writes the host's addresses. The programs enter those themselves that have just come
// (bpf/src/come.h): now and then it is looked for one that has gone again before anybody else knew it.
func (l *Loader) syncOwn(own map[bpf.DatapathAddress]uint32) error {
	if l.verifying {
		if err := l.maps.Own.Read(); err != nil {
			return err
		}
	}
	return l.maps.Own.Sync(own)
}

func (l *Loader) managedEntries() map[uint32]uint32 {
	slots := l.maps.Managed.Size()
	entries := make(map[uint32]uint32)
	for _, s := range l.served {
		entries[uint32(s.Index)%slots] = uint32(s.id)
	}
	return entries
}

// verifyIfDue verifies what is attached when the slow timer or lost events ask
// for it.
func (l *Loader) verifyIfDue() error {
	due := l.verifying
	l.verifying, l.suspicious = false, false
	if !due {
		return nil
	}
	return l.verify()
}

// unservedPrefixes warns of local routes whose addresses are not taken for the
// host's own. With lo's left to the kernel, it makes no difference for those.
func (l *Loader) unservedPrefixes(left []discover.OwnPrefix) []string {
	var warnings []string
	for _, p := range left {
		ignored := p.LoopbackOnly && l.config.LoopbackAddresses == config.LoopbackKernel
		if l.config.Scope == config.ScopeLocal && !ignored {
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
