// SPDX-License-Identifier: Apache-2.0

package attachment

import (
	"errors"
	"fmt"
	"time"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/identity"
)

// Attach attaches to those interfaces that have no programs of this process yet, or in the place of an earlier one's.
func (a *Attachments) Attach(interfaces ...Interface) error {
	return each(interfaces, func(i Interface) error {
		if a.IsAttached(i.Index) {
			return nil
		}
		return a.attach(i)
	})
}

func (a *Attachments) attach(i Interface) error {
	if a.host.Mechanism() == attach.Clsact {
		if err := a.host.Qdiscs.Expect(i.Interface); err != nil {
			return err
		}
	}
	replaces, err := a.planReplacement(i)
	if err != nil {
		return err
	}
	result, err := a.putWatched(i)
	if err != nil {
		return a.explain(i, err)
	}
	if result.New && !replaces {
		a.host.Tx.OnAbort(func() error { return a.host.Attacher().Detach(i.Interface) })
	}
	// The qdisc of an earlier process that attached by clsact stays until detach:
	// to remove one from a device that is up loses packets (qdisc_graft() in
	// net/sched/sch_api.c deactivates the whole device).
	of := a.of[i.Index]
	of.mechanism, of.wait = result.Mechanism, 0
	if result.New {
		a.host.Attached(i.Index)
	}
	if r := identity.Record(a.host.Journal.Interfaces, i.Index); r != nil {
		r.Attached, r.Mechanism = true, string(result.Mechanism)
	}
	switch {
	case of.lost:
		of.lost = false
		a.host.Repaired()
		a.host.Log.Warn("programs had been taken off, attached again", "interface", i.Name, "mechanism", result.Mechanism)
	case result.New:
		a.host.Log.Info("attached", "interface", i.Name, "index", i.Index, "mechanism", result.Mechanism)
	}
	return nil
}

// What could not be attached is tried again after these times: each try by clsact may add a qdisc and remove it, which costs
// packets.
const (
	firstWait   = time.Second
	longestWait = 4 * time.Minute
)

// Lost looks for programs that somebody has taken off, and tries again to attach those that could not be: at first when it is
// called next, then after a second, and twice as long each further time. It tells whether that is worth a reconciliation. What
// cannot be looked at is left to the slow timer, which tells why.
func (a *Attachments) Lost(now time.Time, interfaces []Interface) (due bool) {
	for _, i := range interfaces {
		switch of := a.of[i.Index]; {
		case of.mechanism != attach.Auto:
			complete, err := a.isComplete(i)
			due = err == nil && !complete && of.repairs.AllowN(now, 1) || due
		case of.wait == 0 || !now.Before(of.again):
			of.wait = min(max(firstWait, 2*of.wait), longestWait)
			of.again = now.Add(of.wait)
			due = a.attach(i) == nil || due
		}
	}
	return due
}

// Verify looks whether the programs are still where they were put; Attach puts them back where they are not.
func (a *Attachments) Verify(interfaces []Interface) error {
	return each(interfaces, func(i Interface) error {
		if !a.IsAttached(i.Index) {
			return nil
		}
		complete, err := a.isComplete(i)
		if err == nil && !complete {
			a.of[i.Index].mechanism, a.of[i.Index].lost = attach.Auto, true
		}
		return err
	})
}

// ReplaceRest tries once more where programs of an earlier datapath are left. What those record meanwhile is not copied any
// more: such flows are entered with their next packet.
func (a *Attachments) ReplaceRest(interfaces []Interface) error {
	for _, i := range interfaces {
		if a.IsAttached(i.Index) {
			continue
		}
		left, err := a.HasAny(i.Interface)
		if err == nil && left {
			err = a.attach(i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put attaches the programs of a datapath that fit the interface.
func (a *Attachments) put(d *datapath.Datapath, i Interface) (attach.Result, error) {
	programs, err := d.Programs(i.HasHeader, i.Catches)
	if err != nil {
		return attach.Result{}, err
	}
	return a.host.Attacher().Attach(i.Interface, programs)
}

// putWatched attaches our programs. What comes in may be seen from then on only.
func (a *Attachments) putWatched(i Interface) (result attach.Result, err error) {
	ingress, err := attach.MechanismOf(a.host.Attacher(), i.Interface, attach.Ingress) // perhaps of an earlier process
	if err != nil {
		return result, err
	}
	put := func() (err error) {
		result, err = a.put(a.host.Datapath(), i)
		return err
	}
	if i.Catches || ingress != attach.Auto || a.host.Fresh() {
		err = put()
	} else {
		err = a.host.Datapath().InGrace(put)
	}
	return result, err
}

// Replace attaches the programs of a datapath in the place of those that are attached.
func (a *Attachments) Replace(by *datapath.Datapath, interfaces []Interface) error {
	return each(interfaces, func(i Interface) error {
		if !a.IsAttached(i.Index) {
			return nil
		}
		if _, err := a.put(by, i); err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		return nil
	})
}

// explain tells why there are no programs on an interface. One that has just gone is nobody's fault: its event is next.
func (a *Attachments) explain(i Interface, err error) error {
	if _, gone := a.host.Netlink().LinkByIndex(i.Index); identity.IsGone(gone) {
		return nil
	}
	return errors.Join(fmt.Errorf("interface %s: %w", i.Name, err), a.dropUnusedQdisc(i.Interface))
}

// dropUnusedQdisc removes the qdisc that was added, where no program of ours is left.
func (a *Attachments) dropUnusedQdisc(target attach.Interface) error {
	attached, err := a.HasAny(target)
	if attached || err != nil {
		return err
	}
	return a.host.Qdiscs.Drop(target, false)
}

// planReplacement notes how a start that fails puts back programs of an earlier process, by the mechanism that they are
// attached by, before any of them is replaced: the kernel may take one of ours and refuse the other. Theirs work on its
// maps; where it did not pin them, ours stay. It tells whether there are any.
func (a *Attachments) planReplacement(i Interface) (replaces bool, err error) {
	err = a.host.Tx.Plan(func() (func() error, error) {
		mechanism, err := attach.MechanismOf(a.host.Attacher(), i.Interface, i.hooks()...)
		if err != nil || mechanism == attach.Auto {
			return nil, err
		}
		replaces = true
		earlier, known := a.host.Datapath().Earlier().Programs(i.HasHeader, i.Catches)
		if !known {
			return nil, nil
		}
		return a.AttachingAgain(i.Interface, mechanism, earlier), nil
	})
	return replaces, err
}

// AttachingAgain returns what attaches programs again as they were.
func (a *Attachments) AttachingAgain(target attach.Interface, by attach.Mechanism, earlier attach.Programs) func() error {
	before := a.host.AttacherBy(by)
	return func() error {
		_, err := before.Attach(target, earlier)
		return err
	}
}
