package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"replypath/loader/attach"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/loader/status"
)

// Objects of host repairs, as the metrics name them.
const (
	repairNeighbour = "neighbour"
	repairProgram   = "program"
	repairRoute     = "route"
	repairSysctl    = "sysctl"
)

func (l *Loader) countRepair(object string) {
	if l.state.Repairs == nil {
		l.state.Repairs = make(map[string]uint64)
	}
	l.state.Repairs[object]++
}

// tendRPFilter makes a strict rp_filter loose on every served interface, or puts
// it back where that is not wanted any more.
func (l *Loader) tendRPFilter() error {
	if !l.config.ManageRPFilter {
		return l.restoreSysctls(func(r pins.SysctlRecord) bool { return settingOf(r).leaf == "rp_filter" })
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

// keepSysctl makes a planned change; true the first time. Of an interface that only observes it is noted
// as what enforcing would change. It writes down what it is
// about to do: should the process end in between, detach still knows the value from
// before. An interface that has just gone, or without the family, is no error.
func (l *Loader) keepSysctl(change *hostsettings.Change, err error) (made bool, _ error) {
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if change == nil || err != nil {
		return false, err
	}
	record := pins.SysctlRecord{
		Interface: change.Interface, Key: change.Key, Before: change.Before, After: change.After,
	}
	if !l.served[change.Interface].enforces() {
		l.wouldChange(status.SysctlChange(change))
		return false, nil
	}
	what := settingOf(record)
	isIt := func(r pins.SysctlRecord) bool { return settingOf(r) == what }
	if slices.ContainsFunc(l.state.Sysctls, isIt) {
		return false, l.repairSysctl(what, change)
	}
	l.state.Sysctls = append(l.state.Sysctls, record)
	if err := l.save(); err != nil {
		return false, err
	}
	l.rollback.add(func() error { return l.dropSysctls(isIt) })
	return true, change.Make()
}

// repairSysctl repairs what somebody else has set back, as often as the allowance
// lets it. What we found first stays what detach restores.
func (l *Loader) repairSysctl(what sysctl, change *hostsettings.Change) error {
	if l.allowed[what] == nil {
		l.allowed[what] = newAllowance()
	}
	if !l.allowed[what].Allow() {
		return nil
	}
	if err := change.Make(); err != nil {
		return err
	}
	delete(l.values, change.Key)
	l.countRepair(repairSysctl)
	l.log.Warn("a sysctl had been set back, changed again", "sysctl", change.Key, "value", change.After)
	return nil
}

// settingsChanged tells whether somebody has changed one of our sysctls since it was
// looked at last: of most the kernel tells nobody.
func (l *Loader) settingsChanged() bool {
	changed := false
	values := make(map[string]int)
	for _, r := range l.state.Sysctls {
		value, err := hostsettings.ReadNumber(r.Key)
		if err != nil {
			continue // the interface went, or has another name: there are events of that
		}
		values[r.Key] = value
		before, known := l.values[r.Key]
		changed = changed || strconv.Itoa(value) != r.After && (!known || value != before)
	}
	l.values = values
	return changed
}

// sysctl is a setting of an interface, whatever its name is now; of index 0, of
// none.
type sysctl struct {
	device       int
	family, leaf string
}

func settingOf(r pins.SysctlRecord) sysctl {
	elements := strings.Split(r.Key, ".") // net, ipv4, conf, eth1, rp_filter: a name has no dots here
	return sysctl{r.Interface, elements[1], elements[len(elements)-1]}
}

// restoreSysctls puts back what an earlier configuration, or state of the host,
// asked for. A start that may still fail leaves that for later.
func (l *Loader) restoreSysctls(which func(pins.SysctlRecord) bool) error {
	if l.starting() {
		l.deferred = l.deferred || slices.ContainsFunc(l.state.Sysctls, which)
		return nil
	}
	return l.dropSysctls(which)
}

// restoreObserved puts back what was changed of interfaces that only observe now. What gives way is
// haveDefaultsGiveWay's, which has sockets notice.
func (l *Loader) restoreObserved() error {
	return l.restoreSysctls(func(r pins.SysctlRecord) bool {
		s := l.served[r.Interface]
		return s != nil && !s.enforces() && !isGivingWay(r)
	})
}

// wouldChange notes what enforcing would change on the host.
func (l *Loader) wouldChange(changes ...status.HostChange) {
	for _, c := range changes {
		l.would = append(l.would, pins.ChangeRecord{Object: c.Object, Before: c.Before, After: c.After})
	}
}

// dropSysctls puts changed sysctls back, the last one first, and forgets them. Those of an
// interface that has gone went with it.
func (l *Loader) dropSysctls(which func(pins.SysctlRecord) bool) error {
	var errs []error
	lives := l.lives()
	for i, r := range slices.Backward(l.state.Sysctls) {
		if !which(r) {
			continue
		}
		restored, err := lives.Restore(r)
		if restored != nil {
			l.log.Info("sysctl restored", "sysctl", restored.Key, "value", restored.Before)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.state.Sysctls = slices.Delete(l.state.Sysctls, i, i+1)
	}
	return errors.Join(errs...)
}

// ofInterface picks the records of one interface.
func ofInterface(device int) func(pins.SysctlRecord) bool {
	return func(r pins.SysctlRecord) bool { return r.Interface == device }
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
	l.rollback.add(func() error { return l.dropQdisc(target, false) })
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
