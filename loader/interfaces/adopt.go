// SPDX-License-Identifier: Apache-2.0

package interfaces

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// Adopt makes these interfaces the managed and the caught ones, with the mode that was set by hand, and gives an id to those
// that are new.
func (t *Table) Adopt(found []discover.Interface, byHand bpf.DatapathMode) error {
	var errs []error
	for _, i := range found {
		m, err := t.managedBy(i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !i.Catches {
			t.setMode(m, config.Mode(datapath.ModeInForce(byHand, string(i.Settings.Mode))))
		}
		if !m.entered {
			errs = append(errs, t.enterDevice(m))
		}
		r := identity.Record(t.host.Journal.Interfaces, i.Index)
		if r.Name != i.Name {
			identity.Rename(t.host.Journal, i.Index, i.Name)
		}
		noteAddresses(r, len(i.Addresses) > 0 || i.Catches)
		r.MAC = i.MAC.String()
		r.Name, r.Mode, r.NextHop = i.Name, string(i.Settings.Mode), string(i.Settings.NextHop)
	}
	return errors.Join(errs...)
}

// noteAddresses notes when an interface had no address left.
func noteAddresses(r *pins.InterfaceRecord, hasAny bool) {
	switch {
	case hasAny:
		r.Addressed, r.Gone = true, nil
	case r.Addressed && r.Gone == nil:
		r.Addressed, r.Gone = false, new(time.Now())
	}
}

// managedBy returns the interface that was found, served from now on.
func (t *Table) managedBy(i discover.Interface) (*Managed, error) {
	if m := t.served[i.Index]; m != nil {
		t.logChanges(&m.Interface, &i)
		m.Interface = i
		return m, nil
	}
	id, err := t.identify(i)
	if err != nil {
		return nil, err
	}
	m := &Managed{Interface: i, ID: id}
	t.served[i.Index] = m
	t.host.Attachments.Adopt(m.place())
	return m, nil
}

// setMode notes the mode in force of an interface.
func (t *Table) setMode(m *Managed, mode config.Mode) {
	if m.Mode == mode {
		return
	}
	if m.Mode != "" {
		t.host.Log.Info("interface has another mode", "interface", m.Name, "mode", mode)
	}
	m.Mode = mode
	t.host.ModeChanged(m.Index)
}

// NoCarrier notes that an event said that an interface has no carrier.
func (m *Managed) NoCarrier() { m.lostCarrier = true }

// Refresh brings MAC, MTU and state of an interface up to date. It tells whether the interface is there, and whether it is
// up after it was not, or lost its carrier in between.
func (t *Table) Refresh(m *Managed) (isThere, isBack bool, err error) {
	link, err := t.host.Netlink().LinkByIndex(m.Index)
	if identity.IsGone(err) {
		return false, false, nil // the event that says so is next
	}
	if err != nil {
		return false, false, fmt.Errorf("look at interface %s: %w", m.Name, err)
	}
	before := m.Interface
	m.Interface.Refresh(link)
	t.logChanges(&before, &m.Interface)
	if isBack = m.Up && (m.lostCarrier || !before.Up); isBack {
		m.lostCarrier = false
	}
	return true, isBack, nil
}

func (t *Table) logChanges(before, after *discover.Interface) {
	if before.Name != after.Name {
		t.host.Log.Info("interface has another name", "interface", after.Name, "before", before.Name)
	}
	if before.Up != after.Up {
		t.host.Log.Info("interface is "+upOrDown(after.Up), "interface", after.Name)
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
func (t *Table) enterDevice(m *Managed) error {
	err := t.host.Datapath().Devices.Put(uint32(m.ID), uint32(m.Index))
	if errors.Is(err, unix.EINVAL) {
		return nil // it has just gone
	}
	if err != nil {
		return fmt.Errorf("interface %s: enter its device: %w", m.Name, err)
	}
	m.entered = true
	return nil
}

// forgetDevice ends that. Of a device that is gone there is nothing left.
func (t *Table) forgetDevice(id uint16) error {
	if err := t.host.Datapath().Devices.Delete(uint32(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget device: %w", err)
	}
	return nil
}
