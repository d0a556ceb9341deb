package loader

import (
	"fmt"
	"log/slog"

	"github.com/vishvananda/netlink"

	"replypath/loader/datapath"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// lives tells interfaces that something was changed for from others that have got their
// index or name since.
type lives struct {
	records []pins.InterfaceRecord
	devices *datapath.Devices // nil where there are none
	netlink *netlink.Handle
	log     *slog.Logger
}

// nameOf returns the present name of the interface that was known by an index, "" where it
// has gone: whatever has the index now is none of ours. It is the same by the kernel's word,
// which has watched over the device, or by the same name and MAC; one that is not recorded any
// more, by the name that it had. One that nobody can tell counts as gone, with a warning: it may
// be ours by another name.
func (l *lives) nameOf(index int, before string) (string, error) {
	link, err := l.netlink.LinkByIndex(index)
	if isNotFound(err) {
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
		l.log.Warn("an interface cannot be told to be one that had its index, and is left as it is",
			"interface", name, "index", index, "before", before)
	}
	return "", nil
}

// presentFallback returns what was written down of the fallback routes, with the routes for bound sockets by
// interfaces that are still there, by the names that these have now.
func (l *lives) presentFallback(r *pins.FallbackRecord) (*pins.FallbackRecord, error) {
	if r == nil {
		return nil, nil
	}
	present := *r
	present.Bound = nil
	for _, bound := range r.Bound {
		name, err := l.nameOf(bound.Interface, bound.Name)
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
func (l *lives) isSame(now *netlink.LinkAttrs, before string) (same, known bool) {
	r := lifeIn(l.records, now.Index)
	if r == nil {
		return now.Name == before, false
	}
	have, known := l.devices.Have(r.ID, now.Index)
	return have || now.Name == r.Name && now.HardwareAddr.String() == r.MAC, known
}

// present returns what was changed by the name that the sysctl has now, nil where it went
// with its interface.
func (l *lives) present(r pins.SysctlRecord) (*hostsettings.Change, error) {
	change := changeOf(r)
	if r.Interface == 0 {
		return &change, nil
	}
	name, err := l.nameOf(r.Interface, hostsettings.InterfaceOf(r.Key))
	if name == "" || err != nil {
		return nil, err
	}
	change = change.On(name)
	return &change, nil
}

// restore puts a sysctl back, unless it went or somebody else has decided since. It
// returns what it did, nil for nothing.
func (l *lives) restore(r pins.SysctlRecord) (*hostsettings.Change, error) {
	change, err := l.present(r)
	if change == nil || err != nil {
		return nil, err
	}
	restored, err := hostsettings.Restore(*change)
	if !restored {
		return nil, err
	}
	return change, err
}

// lifeIn returns the record of the interface that has this index now, nil for none.
func lifeIn(records []pins.InterfaceRecord, index int) *pins.InterfaceRecord {
	for i := range records {
		if r := &records[i]; r.Index == index && index != 0 {
			return r
		}
	}
	return nil
}
