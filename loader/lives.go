package loader

import (
	"fmt"

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
}

// nameOf returns the present name of the interface that was known by an index, "" where it
// has gone: whatever has the index now is none of ours. The kernel's word counts, which
// has watched over the device; where there is none, the same name and MAC have to do. An
// interface that is not recorded any more is told by the name that it had.
func (l *lives) nameOf(index int, before string) (string, error) {
	link, err := l.netlink.LinkByIndex(index)
	if isNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for interface %s: %w", before, err)
	}
	name := link.Attrs().Name
	r := lifeIn(l.records, index)
	switch {
	case r == nil && name == before:
	case r != nil && l.devices.Have(r.ID, index):
	case r != nil && name == r.Name && link.Attrs().HardwareAddr.String() == r.MAC:
	default:
		return "", nil
	}
	return name, nil
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
