package loader

import (
	"errors"
	"fmt"
	"io/fs"

	"replypath/loader/fallback"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/loader/undo"
)

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
	if !l.interfaces.Get(change.Interface).Enforces() {
		l.wouldChange(status.SysctlChange(change))
		return false, nil
	}
	return l.sysctls.Keep(change)
}

// restoreObserved puts back what was changed of interfaces that only observe now. What gives way is
// the fallback routes' owner's, which has sockets notice.
func (r *reconciliation) restoreObserved() error {
	return r.sysctls.Restore(func(s pins.SysctlRecord) bool {
		m := r.interfaces.Get(s.Interface)
		return m != nil && !m.Enforces() && !fallback.IsGivingWay(s)
	})
}

// wouldChange notes what enforcing would change on the host.
func (l *Loader) wouldChange(changes ...status.HostChange) {
	for _, c := range changes {
		l.last.would = append(l.last.would, pins.ChangeRecord{Object: c.Object, Before: c.Before, After: c.After})
	}
}
