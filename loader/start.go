// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/loader/discover/dump"
	"replypath/loader/hostmaps"
	"replypath/loader/interfaces"
	"replypath/loader/kernel"
	"replypath/loader/namespace"
	"replypath/loader/pins"
)

// start is a start in progress.
type start struct{ *core }

// steps are what New does.
func (l start) steps() []func() error {
	return []func() error{
		kernel.CheckCall, l.endTrial, l.openNetlink, l.watchHost, l.probe, l.ownNamespace, l.own, l.openJournal,
		l.load, l.limitTrial, l.adoptMode, l.begin, l.obeyConfigured, l.pin,
	}
}

// attempt takes all steps, or takes them back.
func (l start) attempt(steps []func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return errors.Join(err, l.tx.Abort())
		}
	}
	l.tx.Commit()
	l.settle()
	return nil
}

// settle does what the start has put off until there was no way back.
func (l start) settle() {
	if l.state.Trial == nil {
		l.commit()
	}
	wasFresh := l.fresh
	l.fresh = false
	l.reconcilePostponed()
	if !wasFresh && l.state.Trial == nil {
		l.flushUnserved() // what the configuration of before served
	}
}

func (l start) probe() (err error) {
	// Before 5.11 maps count as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	l.kernel, err = kernel.Probe()
	return err
}

// ownNamespace keeps every other process from putting a datapath into this network namespace.
func (l start) ownNamespace() (err error) {
	l.namespace, err = namespace.Lock(l.netlink, l.options.PinDir, l.log)
	if err == nil {
		l.tx.OnAbort(l.namespace.Close)
	}
	return err
}

func (l start) own() (err error) {
	// Before a process is named as the owner that serves another network namespace.
	if _, err := pins.ReadJournal(l.options.PinDir); errors.Is(err, pins.ErrForeignNamespace) {
		return err
	}
	l.dir, err = pins.Own(l.options.PinDir)
	if err != nil {
		return err
	}
	l.tx.OnAbort(l.disown)
	return l.dir.Pass() // the time is that of an earlier daemon's last pass
}

// disown takes back what own did, and whatever was pinned meanwhile if nothing
// was before.
func (l start) disown() error {
	switch {
	case l.dir.Created():
		return l.dir.Remove(datapath.PinNames()...)
	case l.fresh:
		return errors.Join(l.dir.Clear(datapath.PinNames()...), l.dir.Close())
	}
	return l.dir.Close()
}

// openJournal reads what an earlier process wrote down. From here on it is this
// one that is named in it.
func (l start) openJournal() (err error) {
	l.journal, l.fresh, err = pins.CreateJournal(l.dir)
	if err != nil {
		return err
	}
	l.tx.OnAbort(l.journal.Close)
	before, err := l.journal.Read()
	if err != nil {
		return err
	}
	if err := before.CheckNamespace(l.options.PinDir); err != nil {
		return err
	}
	if err := datapath.Settle(l.dir); err != nil {
		return err
	}
	if !l.fresh {
		l.tx.OnAbort(func() error { return l.journal.Write(before) })
	}
	l.state = *before.Clone()
	for n := range l.state.Gateways {
		l.state.Gateways[n].Default = false // until this daemon sees the route
	}
	l.state.Namespace, err = pins.CurrentNamespace()
	if err != nil {
		return err
	}
	if err := l.chooseSeeds(); err != nil {
		return err
	}
	l.state.PID, l.state.Version, l.state.Passes = os.Getpid(), l.options.Version, true
	if l.fresh {
		l.state.Began = time.Now()
	}
	l.describeFeatures()
	l.describeConfig()
	l.beginTrial(before)
	return l.save()
}

// chooseSeeds keeps those that the flow tables were filled with.
func (l start) chooseSeeds() error {
	if len(l.state.Seeds) == len(bpf.Seeds{}) {
		return nil
	}
	seeds, err := bpf.NewSeeds()
	l.state.Seeds = seeds[:]
	return err
}

func (l start) openNetlink() (err error) {
	for _, handle := range []**netlink.Handle{&l.netlink, &l.readers} {
		if *handle, err = dump.Open(); err != nil {
			return err
		}
		l.tx.OnAbort(func() error { (*handle).Close(); return nil })
	}
	return nil
}

// load loads the programs and opens their maps.
func (l start) load() (err error) {
	links := l.dir.Path(datapath.LinksDir)
	if err := os.MkdirAll(links, 0o700); err != nil {
		return fmt.Errorf("create directory for links: %w", err)
	}
	l.attacher = attach.New(links, l.netlink, l.options.Mechanism)
	l.datapath, err = datapath.Load(l.dir, l.datapathOptions(l.config))
	if err != nil {
		return err
	}
	l.tx.OnAbort(l.datapath.Close)
	if err := l.checkTrial(); err != nil {
		return err
	}
	l.maps, err = hostmaps.Read(&l.datapath.Maps)
	if err != nil {
		return err
	}
	restore, err := l.maps.Backup()
	if err == nil {
		l.tx.OnAbort(restore)
	}
	return err
}

// watchHost subscribes to events, so that nothing is missed from here on. The routes are read beside the next steps.
func (l start) watchHost() error {
	if err := l.watch(); err != nil {
		return err
	}
	l.tx.OnAbort(func() error { l.stopEvents(); return nil })
	l.rules.Begin()
	l.tx.OnAbort(func() error { l.rules.End(); return nil })
	if err := l.table.Begin(); err != nil {
		return err
	}
	l.tx.OnAbort(func() error { l.table.End(); return nil })
	return nil
}

// begin reconciles for the first time. Some interface has to be attached, if
// there is any to be managed: a kernel that refuses all of them does not serve.
func (l start) begin() error {
	isKnown := func(index int) bool {
		return l.interfaces.IsRecorded(index) || l.state.Fallback != nil && l.state.Fallback.Index == index
	}
	if err := attach.DetachStrays(l.attacher, isKnown); err != nil {
		return err
	}
	if err := l.firstReconcile(); err != nil {
		return err
	}
	if l.isReconfigured {
		l.state.ForgetGone()
	}
	if err := l.replaceRest(); err != nil {
		return err
	}
	attached := func(m *interfaces.Managed) bool { return l.attachments.IsAttached(m.Index) }
	if all := l.interfaces.All(); len(all) > 0 && !slices.ContainsFunc(all, attached) {
		return l.attachAll() // once more, for its error
	}
	l.gateways.Due(time.Now())
	return nil
}

// replaceRest tries once more where programs of an earlier datapath are left whose flow tables are others. The start ends
// where one stays: what that records nobody looks at, while the earlier datapath as a whole works on. Old and new programs
// that share their tables may go together until the next try.
func (l start) replaceRest() error {
	if !l.datapath.HasNewTables() {
		return nil
	}
	return l.attachments.ReplaceRest(l.interfaces.Targets())
}

// firstReconcile has a grace around it where the flow tables miss what is on its
// way now; a datapath that takes them over knows who spoke first.
func (l start) firstReconcile() error {
	if l.datapath.HasNewTables() {
		return l.handOver(l.datapath, l.reconcile)
	}
	if err := l.datapath.Fill(); err != nil {
		return err
	}
	return l.reconcile()
}

func (l start) pin() error {
	l.tx.OnAbort(l.datapath.Unpin)
	return l.datapath.Pin()
}

// limitTrial has the programs end a trial by themselves.
func (l start) limitTrial() error { return l.maps.Limit(l.options.Trial) }

// adoptMode decides about a mode that was set by hand before this start. Who switched to observe had a reason that a
// restart does not change; to enforce what the configuration only wants observed, it has to be said again.
func (l start) adoptMode() (err error) {
	l.byHand, err = datapath.ReadMode(&l.datapath.Maps)
	switch l.byHand {
	case bpf.DatapathModeMODE_OBSERVE:
		l.log.Warn("mode observe was set by hand and stays in force: `replypath mode enforce` ends it")
	case bpf.DatapathModeMODE_ENFORCE:
		l.byHand = bpf.DatapathModeMODE_CONFIGURED
	}
	return err
}

// obeyConfigured ends what was set by hand and is not adopted. The interfaces have their modes
// already: nothing is left as routed in between.
func (l start) obeyConfigured() error {
	mode, err := datapath.ReadMode(&l.datapath.Maps)
	if err != nil || mode == l.byHand {
		return err
	}
	l.tx.OnAbort(func() error { return datapath.PutMode(&l.datapath.Maps, mode) })
	return datapath.PutMode(&l.datapath.Maps, l.byHand)
}

// beginTrial writes down, where this is one, what takes it back. From the next save
// on it is taken back by whoever owns the pins next, unless it was confirmed.
func (l start) beginTrial(before *pins.Journal) {
	if l.options.Trial == 0 {
		return
	}
	l.state.Trial = &pins.TrialRecord{Until: time.Now().Add(l.options.Trial)}
	if !l.fresh {
		l.state.Trial.Before = before
	}
}

// checkTrial refuses a trial in the place of a datapath whose programs could not be
// put back.
func (l start) checkTrial() error {
	if l.state.Trial == nil || l.state.Trial.Before == nil {
		return nil
	}
	for _, r := range l.state.Trial.Before.Interfaces {
		if _, known := l.datapath.Earlier().Programs(r.MAC != "", r.Catches); r.Index != 0 && r.Attached && !known {
			return errors.New("another version has attached what is there, and it could not be put back: " +
				"end that first by replypath detach")
		}
	}
	return nil
}

// endTrial takes back what was not confirmed by a process that is gone.
func (l start) endTrial() error {
	done, err := detach.TakeBack(l.options.PinDir, l.log)
	if done {
		l.log.Warn("a trial was not confirmed, it is taken back")
	}
	if err != nil {
		return fmt.Errorf("take back a trial: %w", err)
	}
	return nil
}
