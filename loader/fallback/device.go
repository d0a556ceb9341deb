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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/discover"
	"replypath/loader/hostsettings"
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
