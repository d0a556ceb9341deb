package loader

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// served is an interface that is managed now.
type served struct {
	discover.Interface
	id   uint16      // index into the map `interfaces`
	mode config.Mode // in force
	// mechanism is how the programs are attached; empty while they are not.
	mechanism   attach.Mechanism
	lost        bool // they were, and somebody took them off
	entered     bool // in the map `devices`
	lostCarrier bool // since its gateways were asked last
	watched     watched
	// What others take away may be put back at once so often.
	repairs *rate.Limiter
}

func (s *served) target() attach.Interface {
	return attach.Interface{Index: s.Index, Name: s.Name}
}

// inOrder returns the served interfaces in the order of their index.
func (l *Loader) inOrder() []*served {
	return slices.SortedFunc(maps.Values(l.served), func(a, b *served) int { return cmp.Compare(a.Index, b.Index) })
}

// hasHeader tells whether frames begin with an Ethernet header.
func (s *served) hasHeader() bool { return s.MAC != nil }

// withoutClashes takes out interfaces that cannot be told from another in the
// map `managed`, which knows the low bits of an index only. Who is served
// already goes first.
func (l *Loader) withoutClashes(found *discover.Result) []discover.Interface {
	slots := l.maps.Managed.Size()
	owner := make(map[uint32]discover.Interface)
	for _, i := range found.Interfaces {
		slot := uint32(i.Index) % slots
		if _, taken := owner[slot]; !taken || l.served[i.Index] != nil {
			owner[slot] = i
		}
	}
	return slices.DeleteFunc(slices.Clone(found.Interfaces), func(i discover.Interface) bool {
		first := owner[uint32(i.Index)%slots]
		if first.Index == i.Index {
			return false
		}
		found.Unmanaged = append(found.Unmanaged, discover.Unmanaged{Name: i.Name, Reason: fmt.Sprintf(
			"its index %d and that of %s, %d, are the same modulo %d", i.Index, first.Name, first.Index, slots)})
		return true
	})
}

// recordOf returns the record of the interface that has this index now.
func (l *Loader) recordOf(index int) *pins.InterfaceRecord {
	return identity.Record(l.state.Interfaces, index)
}

// identities tells the recorded interfaces from others.
func (l *Loader) identities() *identity.Resolver {
	return &identity.Resolver{
		Records: l.state.Interfaces, Devices: datapath.DevicesIn(l.datapath.Devices), Netlink: l.netlink, Log: l.log,
	}
}

// presence is what has become of an interface since it was recorded.
type presence int

const (
	stays    presence = iota
	absent            // it has been removed
	replaced          // it has been removed, and another has its index
)

// release lets go of interfaces that are gone, became another, or are not
// managed any more, and returns those that are to be served. Programs are
// detached before the tables forget them, except in a start, which may still be
// taken back: without entries in the tables they let everything pass.
func (l *Loader) release(managed []discover.Interface) ([]discover.Interface, error) {
	var errs []error
	for i := range l.state.Interfaces {
		r := &l.state.Interfaces[i]
		if r.Index == 0 {
			continue
		}
		isIt := func(m discover.Interface) bool { return m.Index == r.Index }
		wanted := slices.ContainsFunc(managed, isIt)
		what, err := l.presenceOf(r)
		switch {
		case err != nil:
			errs = append(errs, err)
		case what == absent: // it may have gone after it was found
			managed = slices.DeleteFunc(managed, isIt)
			errs = append(errs, l.endServing(r, what))
		case what == stays && !wanted:
			errs = append(errs, l.tx.Postpone(func() error { return l.endServing(r, what) }))
		case what == replaced || !wanted:
			errs = append(errs, l.endServing(r, what))
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		clear(l.removed)
	}
	return managed, err
}

// presenceOf tells what has become of the interface of a record. Without an event
// that says so, and without the kernel's word for it, one that both programs vanished
// from is taken for another: that is what a new one with an old index looks like.
func (l *Loader) presenceOf(r *pins.InterfaceRecord) (presence, error) {
	isAbsent, err := l.isAbsent(r.Index)
	switch {
	case err != nil:
		return stays, fmt.Errorf("look for interface %s: %w", r.Name, err)
	case isAbsent:
		return absent, nil
	case l.removed[r.Index]:
		return replaced, nil
	case !l.suspicious || l.isEntered(r):
		return stays, nil
	case !r.Attached:
		name, err := l.identities().NameOf(r.Index, r.Name)
		if name != "" || err != nil {
			return stays, err
		}
		return replaced, nil
	}
	attached, err := l.attachedAnywhere(attach.Interface{Index: r.Index, Name: r.Name})
	if attached || err != nil {
		return stays, err
	}
	return replaced, nil
}

// isEntered tells whether the kernel has watched over the device since it was entered in
// the map `devices`, from which it takes one that goes (kernel/bpf/devmap.c,
// dev_map_notification).
func (l *Loader) isEntered(r *pins.InterfaceRecord) bool {
	have, _ := datapath.DevicesIn(l.datapath.Devices).Have(r.ID, r.Index)
	return have
}

// isAbsent tells whether there is no interface of this index now.
func (l *Loader) isAbsent(index int) (bool, error) {
	_, err := l.netlink.LinkByIndex(index)
	if identity.IsGone(err) {
		return true, nil
	}
	return false, err
}

// attachedAnywhere tells whether one of the programs is attached.
func (l *Loader) attachedAnywhere(target attach.Interface) (bool, error) {
	for _, direction := range attach.Directions {
		_, attached, err := l.attacher.Attached(target, direction)
		if attached || err != nil {
			return attached, err
		}
	}
	return false, nil
}

// endServing detaches from an interface and undoes what was changed for it. Its id
// stays taken: counters and flows refer to it.
func (l *Loader) endServing(r *pins.InterfaceRecord, what presence) error {
	target := attach.Interface{Index: r.Index, Name: r.Name}
	// While it can still be told whether an interface that is there is this one.
	name, err := l.identities().NameOf(r.Index, r.Name)
	errs := []error{err, l.sysctls.DropOf(r.Index)}
	l.routes.Forget(r.Index)
	delete(l.served, r.Index) // whatever goes wrong: without entries the programs let everything pass
	if err := errors.Join(l.forgetDevice(r.ID), l.attacher.Detach(target)); err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, l.dropQdisc(target, name == "" && err == nil))
	if what != stays {
		l.log.Info("interface is gone", "interface", r.Name, "index", r.Index)
	} else {
		l.log.Info("interface is not managed any more", "interface", r.Name, "index", r.Index)
	}
	r.Index, r.Mechanism = 0, ""
	return errors.Join(errs...)
}

// adopt makes the managed interfaces the served ones and gives an id to those
// that are new.
func (l *Loader) adopt(managed []discover.Interface) error {
	var errs []error
	for _, i := range managed {
		s := l.served[i.Index]
		if s == nil {
			id, err := l.identify(i)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			before, _ := l.maps.Interfaces.Get(uint32(id))
			s = &served{id: id, repairs: newAllowance(), watched: watchedSince(before.Since)}
			l.served[i.Index] = s
		} else {
			l.logChanges(&s.Interface, &i)
		}
		s.Interface = i
		l.setMode(s, config.Mode(datapath.ModeInForce(l.byHand, string(i.Settings.Mode))))
		if !s.entered {
			errs = append(errs, l.enterDevice(s))
		}
		r := l.recordOf(i.Index)
		if r.Name != i.Name {
			identity.Rename(&l.state, i.Index, i.Name)
		}
		r.MAC = i.MAC.String()
		r.Name, r.Mode, r.NextHop = i.Name, string(i.Settings.Mode), string(i.Settings.NextHop)
	}
	return errors.Join(errs...)
}

// linkChanged brings MAC, MTU and state of a served interface up to date.
func (l *Loader) linkChanged(index int) error {
	s := l.served[index]
	if s == nil {
		return nil
	}
	link, err := l.netlink.LinkByIndex(index)
	if identity.IsGone(err) {
		return nil // the event that says so is next
	}
	if err != nil {
		return fmt.Errorf("look at interface %s: %w", s.Name, err)
	}
	before := s.Interface
	s.Refresh(link)
	l.publish()
	l.logChanges(&before, &s.Interface)
	if s.Up && (s.lostCarrier || !before.Up) {
		s.lostCarrier = false
		l.gateways.CarrierBack(index)
	}
	now := s.ofFallback()
	errs := []error{l.routes.LinkChanged(&now)}
	if !s.Up {
		errs = append(errs, l.gateways.CarrierLost(index))
	}
	return errors.Join(append(errs, l.writeGateways())...)
}

func (l *Loader) logChanges(before, after *discover.Interface) {
	if before.Name != after.Name {
		l.log.Info("interface has another name", "interface", after.Name, "before", before.Name)
	}
	if before.Up != after.Up {
		l.log.Info("interface is "+upOrDown(after.Up), "interface", after.Name)
	}
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// enterDevice has the kernel watch over the device behind an id: from here on the
// programs know that it is gone as soon as it is.
func (l *Loader) enterDevice(s *served) error {
	err := l.datapath.Devices.Put(uint32(s.id), uint32(s.Index))
	if errors.Is(err, unix.EINVAL) {
		return nil // it has just gone
	}
	if err != nil {
		return fmt.Errorf("interface %s: enter its device: %w", s.Name, err)
	}
	s.entered = true
	return nil
}

// forgetDevice ends that. Of a device that is gone there is nothing left.
func (l *Loader) forgetDevice(id uint16) error {
	if err := l.datapath.Devices.Delete(uint32(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget device: %w", err)
	}
	return nil
}

// identify returns the id of an interface, which an earlier process may have
// given to it.
func (l *Loader) identify(i discover.Interface) (uint16, error) {
	if r := l.recordOf(i.Index); r != nil {
		return r.ID, nil
	}
	id, err := l.freeInterfaceID()
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	l.state.Interfaces = append(l.state.Interfaces, pins.InterfaceRecord{ID: id, Index: i.Index, Name: i.Name})
	return id, nil
}

// freeInterfaceID returns an id that was never used, and when there are none
// left that of the interface that was recorded first among those that are gone.
func (l *Loader) freeInterfaceID() (uint16, error) {
	last := uint16(0)
	for _, r := range l.state.Interfaces {
		last = max(last, r.ID)
	}
	if uint32(last)+1 < l.maps.Interfaces.Size() {
		return last + 1, nil
	}
	oldest := slices.IndexFunc(l.state.Interfaces, func(r pins.InterfaceRecord) bool { return r.Index == 0 })
	if oldest < 0 {
		return 0, fmt.Errorf("%d interfaces are managed already, which is as many as can be", last)
	}
	id := l.state.Interfaces[oldest].ID
	l.state.Interfaces = slices.Delete(l.state.Interfaces, oldest, oldest+1)
	var err error
	l.reading.Lock() // readers take all of it from the maps, or from the journal
	defer l.reading.Unlock()
	l.state.Forgotten, err = counters.Forget(&l.datapath.DatapathMaps, id, l.state.Forgotten)
	l.amend(func(v *view) { v.names, v.forgotten = identity.Names(l.state.Interfaces), l.state.Forgotten })
	return id, err
}
