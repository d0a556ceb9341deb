// SPDX-License-Identifier: Apache-2.0

// Package identity tells which interface something was changed for: an index, or a name, may be another's by now.
package identity

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/vishvananda/netlink"

	"replypath/loader/datapath"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// Resolver tells interfaces that something was changed for from others that have got their
// index or name since.
type Resolver struct {
	Records []pins.InterfaceRecord
	Devices *datapath.Devices // nil where there are none
	Netlink *netlink.Handle
	Log     *slog.Logger
}

// NameOf returns the present name of the interface that was known by an index, "" where it
// has gone: whatever has the index now is none of ours. It is the same by the kernel's word,
// which has watched over the device, or by the same name and MAC; one that is not recorded any
// more, by the name that it had. One that nobody can tell counts as gone, with a warning: it may
// be ours by another name.
func (l *Resolver) NameOf(index int, before string) (string, error) {
	link, err := l.Netlink.LinkByIndex(index)
	if IsGone(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for interface %s: %w", before, err)
	}
	name := link.Attrs().Name
	same, known := l.isSame(link.Attrs(), before)
	if same {
		return name, nil
	}
	if !known {
		l.Log.Warn("an interface may not be the one that had its index, and is left as it is",
			"interface", name, "index", index, "before", before)
	}
	return "", nil
}

// PresentFallback returns what was written down of the fallback routes, with the routes for bound sockets by
// interfaces that are still there, by the names that these have now.
func (l *Resolver) PresentFallback(r *pins.FallbackRecord) (*pins.FallbackRecord, error) {
	if r == nil {
		return nil, nil
	}
	present := *r
	present.Bound = nil
	for _, bound := range r.Bound {
		name, err := l.NameOf(bound.Interface, bound.Name)
		if err != nil {
			return nil, err
		}
		if bound.Name = name; name != "" {
			present.Bound = append(present.Bound, bound)
		}
	}
	return &present, nil
}

// isSame tells whether an interface is the one that had its index; known, whether what is not
// the same is known to be another.
func (l *Resolver) isSame(now *netlink.LinkAttrs, before string) (same, known bool) {
	r := Record(l.Records, now.Index)
	if r == nil {
		return now.Name == before, false
	}
	have, known := l.Devices.Have(r.ID, now.Index)
	return have || now.Name == r.Name && now.HardwareAddr.String() == r.MAC, known
}

// Present returns what was changed by the name that the sysctl has now, nil where it went
// with its interface.
func (l *Resolver) Present(r pins.SysctlRecord) (*hostsettings.Change, error) {
	change := changeOf(r)
	if r.Interface == 0 {
		return &change, nil
	}
	now, err := l.NameOf(r.Interface, hostsettings.InterfaceOf(r.Key))
	if now == "" || err != nil {
		return nil, err
	}
	change = change.On(now)
	return &change, nil
}

// Restore puts a sysctl back, unless it went or somebody else has decided since. It
// returns what it did, nil for nothing.
func (l *Resolver) Restore(r pins.SysctlRecord) (*hostsettings.Change, error) {
	change, err := l.Present(r)
	if change == nil || err != nil {
		return nil, err
	}
	restored, err := hostsettings.Restore(*change)
	if !restored {
		return nil, err
	}
	return change, err
}

// Record returns the record of the interface that has this index now, nil for none.
func Record(records []pins.InterfaceRecord, index int) *pins.InterfaceRecord {
	for i := range records {
		if r := &records[i]; r.Index == index && index != 0 {
			return r
		}
	}
	return nil
}

// Names returns the name of every interface that ever was.
func Names(records []pins.InterfaceRecord) map[uint16]string {
	names := make(map[uint16]string, len(records))
	for _, r := range records {
		names[r.ID] = r.Name
	}
	return names
}

// changeOf returns the change of a record, by the name that the interface had then.
func changeOf(r pins.SysctlRecord) hostsettings.Change {
	return hostsettings.Change{Interface: r.Interface, Key: r.Key, Before: r.Before, After: r.After}
}

// Rename notes by which name an interface is found from now on, for whoever looks
// whether what was changed still holds.
func Rename(j *pins.Journal, device int, name string) {
	for i := range j.Sysctls {
		if r := &j.Sysctls[i]; r.Interface == device && device != 0 {
			r.Key = changeOf(*r).On(name).Key
		}
	}
	for i := range j.Qdiscs {
		if r := &j.Qdiscs[i]; r.Interface == device && device != 0 {
			r.Name = name
		}
	}
}

// IsGone tells the error of an interface that is not there.
func IsGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
