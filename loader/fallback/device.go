// SPDX-License-Identifier: Apache-2.0

// Package fallback makes the default routes of last resort and the device that
// they lead to. While no other default route is usable, the kernel goes on
// building replies and hands them to this device, where a program moves each to
// the interface of its flow. Nothing leaves by it.
//
// All functions work in the network namespace of the handle, which is that of the
// calling thread.
package fallback

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// alias tells the device from one of somebody else's that has its name.
const alias = "replypath: fallback default route"

var (
	// ErrForeign: there is a device of this name that was made by somebody else.
	ErrForeign = errors.New("a device " + discover.OwnDevice + " of somebody else is in the way: rename or delete it")
	// errNoKind: the kernel has no kind of device that serves.
	errNoKind = errors.New("the kernel has neither dummy nor ifb devices: load one of these modules")
)

// kinds of devices that need no other end, resolve no neighbours and always have
// carrier. dummy was made for this. ifb drops what it is handed by a route, which
// is as good.
var kinds = []func(netlink.LinkAttrs) netlink.Link{
	func(a netlink.LinkAttrs) netlink.Link { return &netlink.Dummy{LinkAttrs: a} },
	func(a netlink.LinkAttrs) netlink.Link { return &netlink.Ifb{LinkAttrs: a} },
}

// Device is the device.
type Device struct {
	Index int
	Kind  string // "dummy" or "ifb"
	MTU   int    // bytes
	Up    bool
}

// Target is the device of this index as a place for programs.
func Target(index int) attach.Interface {
	return attach.Interface{Index: index, Name: discover.OwnDevice}
}

// Find returns the device, nil where there is none. One that was never seen before
// has to have our alias; the error matches ErrForeign where it has not.
func Find(nl *netlink.Handle, known bool) (*Device, error) {
	link, err := nl.LinkByName(discover.OwnDevice)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", discover.OwnDevice, err)
	}
	if !known && link.Attrs().Alias != alias {
		return nil, ErrForeign
	}
	return describe(link), nil
}

func describe(link netlink.Link) *Device {
	attrs := link.Attrs()
	return &Device{Index: attrs.Index, Kind: link.Type(), MTU: attrs.MTU, Up: attrs.RawFlags&unix.IFF_UP != 0}
}

// create makes the device, which is down then. The error matches errNoKind where
// the kernel has no kind that serves.
func create(nl *netlink.Handle) (*Device, error) {
	if err := hostsettings.CheckWritable(); err != nil { // before anybody is told of a device that has to go again
		return nil, fmt.Errorf("make %s: %w", discover.OwnDevice, err)
	}
	for _, kind := range kinds {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = discover.OwnDevice
		err := nl.LinkAdd(kind(attrs))
		if errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", discover.OwnDevice, err)
		}
		return finish(nl)
	}
	return nil, errNoKind
}

// finish does what can only be done to a device that is there, and before it is
// up: an address of its own would make the host a neighbour of nobody.
func finish(nl *netlink.Handle) (*Device, error) {
	link, err := nl.LinkByName(discover.OwnDevice)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", discover.OwnDevice, err)
	}
	if err := nl.LinkSetAlias(link, alias); err != nil {
		return nil, fmt.Errorf("name %s as ours: %w", discover.OwnDevice, err)
	}
	if err := keepSettings(); err != nil {
		return nil, err
	}
	return describe(link), nil
}

// keepSettings sets the device's sysctls, which somebody may have changed: without IPv6 it can have no
// route of that family.
func keepSettings() error {
	var errs []error
	for _, s := range []struct{ leaf, value string }{
		{"disable_ipv6", "0"},  // the default may be off where eth1's is on
		{"addr_gen_mode", "1"}, // none
		{"accept_ra", "0"},
	} {
		errs = append(errs, set(hostsettings.Key("ipv6", discover.OwnDevice, s.leaf), s.value))
	}
	return errors.Join(errs...)
}

// set sets a sysctl of the device; without IPv6 there is none.
func set(key, value string) error {
	change, err := hostsettings.Plan(key, value)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if change == nil || err != nil {
		return err
	}
	return change.Make()
}

// smallestMTU is IPv6's (RFC 8200, 5): below it the kernel takes IPv6 off a device.
const smallestMTU = 1280

// setMTU makes replies as large as they may be everywhere: mtu is the smallest of
// the managed interfaces.
func setMTU(nl *netlink.Handle, d *Device, mtu int) error {
	mtu = max(mtu, smallestMTU)
	if d.MTU == mtu {
		return nil
	}
	if err := nl.LinkSetMTU(linkOf(d), mtu); err != nil {
		return fmt.Errorf("set the mtu of %s to %d: %w", discover.OwnDevice, mtu, err)
	}
	d.MTU = mtu
	return nil
}

// setUp sets the device up. Its programs have to be attached before.
func setUp(nl *netlink.Handle, d *Device) error {
	if d.Up {
		return nil
	}
	if err := nl.LinkSetUp(linkOf(d)); err != nil {
		return fmt.Errorf("set %s up: %w", discover.OwnDevice, err)
	}
	d.Up = true
	return nil
}

// Remove deletes the device, and with it its routes. One that has gone already is
// no error.
func Remove(nl *netlink.Handle, d *Device) error {
	err := nl.LinkDel(linkOf(d))
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", discover.OwnDevice, err)
	}
	return nil
}

func linkOf(d *Device) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: d.Index, Name: discover.OwnDevice}}
}

// ownDevice owns the device and its programs.
type ownDevice struct {
	host           *Host
	repairs        *rate.Limiter
	programRepairs *rate.Limiter
	found          *Device            // nil while there is none
	served         *datapath.Datapath // whose programs are attached to it
	how            attach.Mechanism   // by which they are
	lost           bool               // they could not be attached, which is tried again
	deleted        bool               // by somebody
	tried          time.Time          // when it was last made, or could not be
}

// errDeletedAgain says that what somebody deletes again and again has to wait (Host.Allowance).
var errDeletedAgain = errors.New("deleted again and again: it is made again after a pause, find out who deletes it (ip monitor)")

// find finds the device or makes it. Where it cannot be told whether it is there, it counts as the one of before: the
// routes to it stay. It tells whether it has made one that somebody had deleted.
func (o *ownDevice) find() (again bool, _ error) {
	before := o.found
	device, err := Find(o.host.Netlink(), o.host.Journal.Fallback != nil)
	if err != nil {
		return false, err
	}
	if o.found = device; device == nil {
		o.deleted = o.deleted || before != nil
		again = o.deleted
		if err := o.makeOrWait(); err != nil {
			return false, err
		}
	}
	o.deleted = false
	if before == nil || before.Index != o.found.Index {
		o.served, o.how = nil, attach.Auto
	}
	o.record()
	return again, nil
}

// makeOrWait makes the device, but not at once where somebody deletes it again and again.
func (o *ownDevice) makeOrWait() error {
	deleted := o.deleted
	if deleted && !o.repairs.Allow() {
		return fmt.Errorf("the device %s is %w", discover.OwnDevice, errDeletedAgain)
	}
	if err := o.make(); err != nil {
		return err
	}
	if deleted {
		o.host.RepairedRoute()
		o.host.Log.Warn("the device of the fallback route had been deleted, made again", "interface", discover.OwnDevice)
	}
	return nil
}

// make writes down what it is about to do: detach then knows whose the device is.
func (o *ownDevice) make() (err error) {
	o.tried = time.Now()
	o.host.Journal.Fallback = &pins.FallbackRecord{}
	if err := o.host.Save(); err != nil {
		return err
	}
	o.host.Tx.OnAbort(o.remove)
	o.found, err = create(o.host.Netlink())
	if err != nil {
		return errors.Join(err, o.remove())
	}
	o.host.Log.Info("made the device of the fallback route", "interface", discover.OwnDevice,
		"kind", o.found.Kind, "index", o.found.Index)
	return nil
}

// record notes how the device is found, and by what its programs are attached where this process has attached them.
func (o *ownDevice) record() {
	record := &pins.FallbackRecord{Index: o.found.Index, Kind: o.found.Kind, Mechanism: string(o.how)}
	if before := o.host.Journal.Fallback; before != nil {
		record.Bound = before.Bound
	}
	o.host.Journal.Fallback = record
}

// remove deletes the device, whoever made it: its record says that it was one of us.
func (o *ownDevice) remove() error {
	device, err := Find(o.host.Netlink(), o.host.Journal.Fallback != nil)
	if err != nil {
		return err
	}
	if device != nil {
		if err := Remove(o.host.Netlink(), device); err != nil {
			return err
		}
		err = o.host.Attacher().Detach(Target(device.Index)) // what is left of its pins
	}
	o.forget()
	return err
}

// forget notes that there is no device.
func (o *ownDevice) forget() {
	*o = ownDevice{host: o.host, repairs: o.repairs, programRepairs: o.programRepairs, tried: o.tried}
	o.host.Journal.Fallback = nil
}

// arrange attaches the programs and sets the device up. Its MTU is the smallest of the interfaces that are enforced, of
// which there is one at least: replies that are built for the device then fit wherever they are moved to.
func (o *ownDevice) arrange(enforced []Interface) error {
	mtu := slices.MinFunc(enforced, func(a, b Interface) int { return a.MTU - b.MTU }).MTU
	err := errors.Join(o.attach(), setMTU(o.host.Netlink(), o.found, mtu), keepSettings())
	if err != nil {
		return err
	}
	return setUp(o.host.Netlink(), o.found)
}

// attach attaches the program that moves replies off the device and behind it the one where everything else ends, unless
// they are there. The first must not get behind the second: where one is missing, both are attached anew.
func (o *ownDevice) attach() (err error) {
	defer func() { o.lost = err != nil }()
	target, by := Target(o.found.Index), o.host.Datapath()
	mechanism, err := o.mechanism()
	complete := mechanism != attach.Auto
	if err != nil || complete && o.served == by {
		return err
	}
	if !complete {
		if err := o.host.Attacher().DetachFrom(target, attach.Last); err != nil {
			return err
		}
	} else if earlier, known := by.Earlier().FallbackPrograms(); known {
		o.host.Tx.OnAbort(func() error { return o.host.Attacher().RemoveQdisc(target) }) // one that is empty then
		o.host.Tx.OnAbort(o.host.AttachAgain(target, mechanism, earlier))
	}
	lost := o.served == by
	if err := o.replace(by); err != nil {
		return err
	}
	if lost {
		o.host.RepairedPrograms()
		o.host.Log.Warn("programs had been taken off, attached again", "interface", discover.OwnDevice)
	}
	return nil
}

// mechanism returns how both programs are attached to the device, attach.Auto where one is missing.
func (o *ownDevice) mechanism() (attach.Mechanism, error) {
	return attach.MechanismOf(o.host.Attacher(), Target(o.found.Index), attach.Egress, attach.Last)
}

// hasLost is Routes.HasLost. Another problem of the device is none of the programs'.
func (o *ownDevice) hasLost(now time.Time) bool {
	if o.found == nil {
		return false
	}
	mechanism, err := o.mechanism()
	switch {
	case err != nil || mechanism != attach.Auto:
		return false
	case o.lost:
		return o.attach() == nil
	}
	return o.programRepairs.AllowN(now, 1)
}

// replace puts the programs of a datapath on the device, in the place of earlier ones if there are any.
func (o *ownDevice) replace(by *datapath.Datapath) error {
	result, err := o.host.Attacher().Attach(Target(o.found.Index), by.FallbackPrograms())
	if err != nil {
		return fmt.Errorf("interface %s: %w", discover.OwnDevice, err)
	}
	o.served, o.how = by, result.Mechanism
	o.record()
	return nil
}
