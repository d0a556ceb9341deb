// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"errors"
	"fmt"
	"slices"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/source"
	"replypath/loader/undo"
)

// restorer puts an earlier datapath back in the place of the one that the journal
// is of. What both changed on the host stays.
type restorer struct {
	*detacher
	before  *pins.Journal
	earlier *datapath.ProgramSet // its programs
}

// run goes on after errors.
func (r *restorer) run() error {
	var errs []error
	for _, record := range r.before.Interfaces {
		errs = append(errs, r.attach(record))
	}
	for _, record := range r.journal.Interfaces {
		errs = append(errs, r.detach(record))
	}
	return errors.Join(append(errs, r.fallback(), r.leftovers(), r.source(), r.qdiscs(), r.sysctls())...)
}

// attach puts the earlier programs on an interface, in the place of others where
// there are any. One that they could not be attached to is left without.
func (r *restorer) attach(record pins.InterfaceRecord) error {
	if !record.Attached || record.Index == 0 {
		return nil
	}
	name, err := r.identities(r.before).NameOf(record.Index, record.Name)
	if name == "" || err != nil {
		return err
	}
	programs, known := r.earlier.Programs(record.MAC != "", record.Catches)
	if !known {
		return fmt.Errorf("interface %s: the programs that were attached before are not pinned", record.Name)
	}
	target := attach.Interface{Index: record.Index, Name: name}
	_, err = r.by(record.Mechanism).Attach(target, programs)
	// Who goes on attaches it again where a gateway is held.
	return errors.Join(err, r.attacher.DetachFrom(target, attach.Last))
}

// by attaches by the mechanism of before, which the trial may have replaced by another;
// where none is noted, by the one that the kernel has.
func (r *restorer) by(mechanism string) *attach.Attacher {
	return attach.New(r.dir.Path(datapath.LinksDir), r.netlink, attach.Mechanism(mechanism))
}

// detach takes programs off an interface that the earlier datapath did not serve.
func (r *restorer) detach(record pins.InterfaceRecord) error {
	same := func(b pins.InterfaceRecord) bool { return b.Index == record.Index && b.Attached }
	if record.Index == 0 || slices.ContainsFunc(r.before.Interfaces, same) {
		return nil
	}
	return r.program(attach.Interface{Index: record.Index, Name: record.Name})
}

// source puts back, or takes off, the programs that repair source addresses.
func (r *restorer) source() error {
	programs, known := r.earlier.Source()
	if r.before.SourceCgroup == "" || !known {
		return r.sourceRepair()
	}
	_, err := source.Attach(r.dir.Path(datapath.LinksDir), r.before.SourceCgroup, programs)
	return err
}

// qdiscs removes those that the earlier datapath did not add.
func (r *restorer) qdiscs() error {
	var errs []error
	for _, q := range r.journal.Qdiscs {
		if !slices.ContainsFunc(r.before.Qdiscs, func(b pins.QdiscRecord) bool { return b.Interface == q.Interface }) {
			errs = append(errs, r.qdisc(q))
		}
	}
	return errors.Join(errs...)
}

// sysctls restores those that the earlier datapath did not change, the last one first, and
// changes again those of its changes that are no more.
func (r *restorer) sysctls() error {
	var errs []error
	restore := func(of *pins.Journal, s pins.SysctlRecord) {
		_, err := r.identities(of).Restore(s)
		errs = append(errs, err)
	}
	for _, s := range slices.Backward(r.journal.Sysctls) {
		if !hasChange(r.before, s) {
			restore(r.journal, s)
		}
	}
	for _, s := range r.before.Sysctls {
		if !hasChange(r.journal, s) {
			s.Before, s.After = s.After, s.Before
			restore(r.before, s)
		}
	}
	return errors.Join(errs...)
}

// hasChange tells whether a journal has a change, whatever the interface's name was then.
func hasChange(j *pins.Journal, s pins.SysctlRecord) bool {
	return slices.ContainsFunc(j.Sysctls, func(r pins.SysctlRecord) bool {
		return undo.SettingOf(r) == undo.SettingOf(s) && r.Before == s.Before && r.After == s.After
	})
}

// fallback puts the earlier programs on the device, or takes it and the routes away where there was
// none.
func (r *restorer) fallback() error {
	if r.before.Fallback == nil {
		return r.detacher.fallback()
	}
	device, err := fallback.Find(r.netlink, true)
	if device == nil || err != nil {
		return errors.Join(err, r.detacher.boundRoutes())
	}
	programs, known := r.earlier.FallbackPrograms()
	if !known {
		return fmt.Errorf("interface %s: the programs that were attached before are not pinned", discover.OwnDevice)
	}
	target := fallback.Target(device.Index)
	result, err := r.by(r.before.Fallback.Mechanism).Attach(target, programs)
	err = errors.Join(err, r.boundRoutes())
	if err != nil || result.Mechanism == attach.Clsact {
		return err
	}
	return r.attacher.RemoveQdisc(target) // that a trial by clsact has added
}

// boundRoutes makes them those of before, on interfaces that are still there.
func (r *restorer) boundRoutes() error {
	routers, err := nexthop.FindOwn()
	if err != nil {
		return err
	}
	present, err := r.identities(r.before).PresentFallback(r.before.Fallback)
	if err != nil {
		return err
	}
	var before []nexthop.Default
	for _, record := range present.Bound {
		before = append(before, nexthop.Default{Interface: record.Interface, Gateway: record.Gateway, Family: record.Family})
	}
	wasThere := func(route nexthop.OwnRoute) bool { return slices.Contains(before, route.Default) }
	_, removeErr := fallback.RemoveBound(r.netlink, slices.DeleteFunc(routers.Bound, wasThere))
	_, addErr := fallback.AddBound(r.netlink, fallback.RoutesBy(before, routers.Fallback))
	return errors.Join(removeErr, addErr)
}
