package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"replypath/loader/attach"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// Objects of host repairs, as the metrics name them.
const (
	repairProgram = "program"
	repairSysctl  = "sysctl"
)

func (l *Loader) countRepair(object string) {
	if l.state.Repairs == nil {
		l.state.Repairs = make(map[string]uint64)
	}
	l.state.Repairs[object]++
}

func changeOf(r pins.SysctlRecord) hostsettings.Change {
	return hostsettings.Change{Interface: r.Interface, Key: r.Key, Before: r.Before, After: r.After}
}

// tendRPFilter makes a strict rp_filter loose on every served interface, or puts
// it back where that is not wanted any more.
func (l *Loader) tendRPFilter() error {
	if !l.config.ManageRPFilter {
		return l.restoreRPFilter()
	}
	var errs []error
	for _, s := range l.inOrder() {
		errs = append(errs, l.loosenRPFilter(s))
	}
	return errors.Join(errs...)
}

// restoreRPFilter puts back what an earlier configuration asked for.
func (l *Loader) restoreRPFilter() error {
	if l.starting() {
		l.deferred = l.deferred || len(l.state.Sysctls) > 0
		return nil
	}
	var errs []error
	for _, r := range slices.Clone(l.state.Sysctls) {
		errs = append(errs, l.dropSysctls(r.Interface, false))
	}
	return errors.Join(errs...)
}

// loosenRPFilter writes down what it is about to do: should the process end in
// between, detach still knows the value from before.
func (l *Loader) loosenRPFilter(s *served) error {
	change, err := hostsettings.PlanRPFilter(s.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has just gone, or IPv4 is off
	}
	if change == nil || err != nil {
		return err
	}
	if l.sysctl(change.Interface) != nil {
		return l.loosenAgain(s, *change)
	}
	l.state.Sysctls = append(l.state.Sysctls, pins.SysctlRecord{
		Interface: change.Interface, Key: change.Key, Before: change.Before, After: change.After,
	})
	if err := l.save(); err != nil {
		return err
	}
	l.rollback.add(func() error { return l.dropSysctls(change.Interface, false) })
	if err := change.Make(); err != nil {
		return err
	}
	l.log.Info("strict rp_filter made loose", "interface", s.Name, "before", change.Before,
		"undo", change.Undo())
	return nil
}

// loosenAgain repairs what somebody else has set back, as often as the allowance
// lets it. What we found first stays what detach restores.
func (l *Loader) loosenAgain(s *served, change hostsettings.Change) error {
	if !s.loosening.Allow() {
		return nil
	}
	if err := change.Make(); err != nil {
		return err
	}
	l.countRepair(repairSysctl)
	l.log.Warn("rp_filter had been made strict again, made loose", "interface", s.Name)
	return nil
}

func (l *Loader) sysctl(device int) *pins.SysctlRecord {
	i := slices.IndexFunc(l.state.Sysctls, func(r pins.SysctlRecord) bool { return r.Interface == device })
	if i < 0 {
		return nil
	}
	return &l.state.Sysctls[i]
}

// dropSysctls puts back what was changed for an interface, and forgets it. Those
// of a gone interface went with it: its index may be another's by now.
func (l *Loader) dropSysctls(device int, gone bool) error {
	r := l.sysctl(device)
	if r == nil {
		return nil
	}
	if !gone {
		restored, err := hostsettings.Restore(changeOf(*r))
		if err != nil {
			return err
		}
		if restored {
			l.log.Info("sysctl restored", "sysctl", r.Key, "value", r.Before)
		}
	}
	l.state.Sysctls = slices.DeleteFunc(l.state.Sysctls, func(r pins.SysctlRecord) bool { return r.Interface == device })
	return nil
}

// expectQdisc writes down that attaching by clsact is about to add the qdisc.
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
	return l.save()
}

// mechanism is what Attach is going to choose.
func (l *Loader) mechanism() attach.Mechanism {
	switch {
	case l.options.Mechanism != attach.Auto:
		return l.options.Mechanism
	case l.kernel.tcx:
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
