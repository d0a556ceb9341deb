package loader

import (
	"errors"
	"fmt"

	"replypath/loader/fallback"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
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

// restoreObserved puts back what was changed of interfaces that only observe now. What gives way is
// the fallback routes' owner's, which has sockets notice.
func (r *reconciliation) restoreObserved() error {
	return r.sysctls.Restore(func(s pins.SysctlRecord) bool {
		m := r.interfaces.Get(s.Interface)
		return m != nil && !m.Enforces() && !fallback.IsGivingWay(s)
	})
}
