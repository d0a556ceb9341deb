// SPDX-License-Identifier: Apache-2.0

package interfaces

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// presence is what has become of an interface since it was recorded.
type presence int

const (
	stays    presence = iota
	absent            // it has been removed
	replaced          // it has been removed, and another has its index
)

// Release lets go of interfaces that are gone, became another, or are not
// managed, or caught, any more, and returns those that are to be served. Programs are
// detached before the tables forget them, except in a start, which may still be
// taken back: without entries in the tables they let everything pass. Who is caught from
// now on and was managed, or the other way round, is served once that has ended.
func (t *Table) Release(found []discover.Interface) ([]discover.Interface, error) {
	var errs []error
	suspect := false // still
	for i := range t.host.Journal.Interfaces {
		r := &t.host.Journal.Interfaces[i]
		if r.Index == 0 {
			continue
		}
		index := r.Index
		isIt := func(i discover.Interface) bool { return i.Index == index }
		wanted := slices.ContainsFunc(found, func(i discover.Interface) bool { return isIt(i) && i.Catches == r.Catches })
		what, err := t.presenceOf(r)
		switch {
		case err != nil: // what was not asked is asked the next time
			suspect = t.suspect
			errs = append(errs, err)
		case what == absent: // it may have gone after it was found
			found = slices.DeleteFunc(found, isIt)
			errs = append(errs, t.endServing(r, what))
		case what == stays && !wanted:
			errs = append(errs, t.host.Tx.Postpone(func() error { return t.endServing(r, what) }))
		case what == replaced || !wanted:
			errs = append(errs, t.endServing(r, what))
		}
		if !wanted && r.Index != 0 {
			found = slices.DeleteFunc(found, isIt)
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		clear(t.removed)
	}
	t.suspect = suspect
	return found, err
}

// presenceOf tells what has become of the interface of a record. Without an event
// that says so, and without the kernel's word for it, one that both programs vanished
// from is taken for another: that is what a new one with an old index looks like.
func (t *Table) presenceOf(r *pins.InterfaceRecord) (presence, error) {
	_, err := t.host.Netlink().LinkByIndex(r.Index)
	switch {
	case identity.IsGone(err):
		return absent, nil
	case err != nil:
		return stays, fmt.Errorf("look for interface %s: %w", r.Name, err)
	case t.removed[r.Index]:
		return replaced, nil
	case !t.suspect || t.isEntered(r):
		return stays, nil
	case !r.Attached:
		name, err := t.host.Identities().NameOf(r.Index, r.Name)
		if name != "" || err != nil {
			return stays, err
		}
		return replaced, nil
	}
	attached, err := t.host.Attachments.HasAny(attach.Interface{Index: r.Index, Name: r.Name})
	if attached || err != nil {
		return stays, err
	}
	return replaced, nil
}

// isEntered tells whether the kernel has watched over the device since it was entered in
// the map `devices`, from which it takes one that goes (kernel/bpf/devmap.c,
// dev_map_notification).
func (t *Table) isEntered(r *pins.InterfaceRecord) bool {
	have, _ := datapath.DevicesIn(t.host.Datapath().Devices).Have(r.ID, r.Index)
	return have
}

// endServing detaches from an interface and undoes what was changed for it. Its id
// stays taken: counters and flows refer to it.
func (t *Table) endServing(r *pins.InterfaceRecord, what presence) error {
	target := attach.Interface{Index: r.Index, Name: r.Name}
	// While it can still be told whether an interface that is there is this one.
	name, err := t.host.Identities().NameOf(r.Index, r.Name)
	errs := []error{err, t.host.Sysctls.DropOf(r.Index)}
	delete(t.served, r.Index) // whatever goes wrong: without entries the programs let everything pass
	gone := name == "" && err == nil
	if err := errors.Join(t.forgetDevice(r.ID), t.host.Attachments.Release(target)); err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, t.host.Qdiscs.Drop(target, gone))
	if what != stays {
		t.host.Log.Info("interface is gone", "interface", r.Name, "index", r.Index)
	} else if r.Catches {
		t.host.Log.Info("replies that leave by an interface are not caught any more", "interface", r.Name, "index", r.Index)
	} else {
		t.host.Log.Info("interface is not managed any more", "interface", r.Name, "index", r.Index)
	}
	left := pins.InterfaceRecord{ID: r.ID, Name: r.Name}
	if !r.Catches {
		left.Gone = new(time.Now())
	}
	*r = left
	return errors.Join(errs...)
}

// Gone notes that an event said that an interface has gone.
func (t *Table) Gone(index int) { t.removed[index] = true }

// Suspect has the next Release look whether the interfaces are still who they were: events were lost.
func (t *Table) Suspect() { t.suspect = true }

// IsRecorded tells whether this process or an earlier one has managed or caught the interface of an index.
func (t *Table) IsRecorded(index int) bool {
	return identity.Record(t.host.Journal.Interfaces, index) != nil
}
