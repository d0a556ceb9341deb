package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"replypath/loader/attach"
	"replypath/loader/fallback"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/loader/undo"
)

// tendRPFilter makes a strict rp_filter loose on every served interface, or puts
// it back where that is not wanted any more.
func (l *Loader) tendRPFilter() error {
	if !l.config.ManageRPFilter {
		return l.sysctls.Restore(func(r pins.SysctlRecord) bool { return undo.SettingOf(r).Leaf == "rp_filter" })
	}
	var errs []error
	for _, s := range l.inOrder() {
		change, err := hostsettings.PlanRPFilter(s.Name)
		made, err := l.keepSysctl(change, err)
		errs = append(errs, err)
		if made {
			l.log.Info("strict rp_filter made loose", "interface", s.Name, "before", change.Before, "undo", change.Undo())
		}
	}
	return errors.Join(errs...)
}

// blindByRPFilter warns of interfaces that only observe, where the kernel drops what there would be to see.
func (l *Loader) blindByRPFilter() (warnings []string) {
	for _, s := range l.observed() {
		_, _, effective, err := hostsettings.RPFilter(s.Name)
		if err == nil && effective == hostsettings.RPFilterStrict {
			warnings = append(warnings, fmt.Sprintf("interface %s only observes, and its rp_filter is strict: the kernel drops "+
				"what comes in where the route back leads by another interface, so that none or only a part of it is seen", s.Name))
		}
	}
	return warnings
}

// keepSysctl makes a planned change, and tells whether it is the first time. Of an interface that only observes it is noted
// as what enforcing would change. An interface that has just gone, or without the family, is no error.
func (l *Loader) keepSysctl(change *hostsettings.Change, err error) (made bool, _ error) {
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if change == nil || err != nil {
		return false, err
	}
	if !l.served[change.Interface].enforces() {
		l.wouldChange(status.SysctlChange(change))
		return false, nil
	}
	return l.sysctls.Keep(change)
}

// restoreObserved puts back what was changed of interfaces that only observe now. What gives way is
// the fallback routes' owner's, which has sockets notice.
func (l *Loader) restoreObserved() error {
	return l.sysctls.Restore(func(r pins.SysctlRecord) bool {
		s := l.served[r.Interface]
		return s != nil && !s.enforces() && !fallback.IsGivingWay(r)
	})
}

// wouldChange notes what enforcing would change on the host.
func (l *Loader) wouldChange(changes ...status.HostChange) {
	for _, c := range changes {
		l.would = append(l.would, pins.ChangeRecord{Object: c.Object, Before: c.Before, After: c.After})
	}
}

// expectQdisc writes down that attaching by clsact is about to add the qdisc, which a
// start that fails takes away again.
func (l *Loader) expectQdisc(target attach.Interface) error {
	if l.mechanism() != attach.Clsact {
		return nil
	}
	lacks, err := l.attacher.LacksQdisc(target)
	if err != nil || !lacks {
		return err
	}
	l.forgetQdisc(target.Index)
	l.state.Qdiscs = append(l.state.Qdiscs, pins.QdiscRecord{Interface: target.Index, Name: target.Name})
	l.tx.OnAbort(func() error { return l.dropQdisc(target, false) })
	return l.save()
}

// mechanism is what Attach is going to choose.
func (l *Loader) mechanism() attach.Mechanism {
	switch {
	case l.options.Mechanism != attach.Auto:
		return l.options.Mechanism
	case l.kernel.TCX:
		return attach.TCX
	}
	return attach.Clsact
}

// dropQdisc removes the clsact qdisc of an interface, if it was added here and
// nobody else uses it.
func (l *Loader) dropQdisc(target attach.Interface, gone bool) error {
	if !slices.ContainsFunc(l.state.Qdiscs, func(r pins.QdiscRecord) bool { return r.Interface == target.Index }) {
		return nil
	}
	if !gone {
		if err := l.attacher.RemoveQdisc(target); err != nil {
			return fmt.Errorf("put the qdiscs of %s back: %w", target.Name, err)
		}
	}
	l.forgetQdisc(target.Index)
	return nil
}

func (l *Loader) forgetQdisc(device int) {
	l.state.Qdiscs = slices.DeleteFunc(l.state.Qdiscs, func(r pins.QdiscRecord) bool { return r.Interface == device })
}
