// SPDX-License-Identifier: Apache-2.0

package interfaces

import (
	"fmt"
	"slices"

	"replypath/loader/discover"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// identify returns the id of an interface, which an earlier process may have
// given to it.
func (t *Table) identify(i discover.Interface) (uint16, error) {
	if r := identity.Record(t.host.Journal.Interfaces, i.Index); r != nil {
		return r.ID, nil
	}
	id, err := t.freeID()
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	t.host.Journal.Interfaces = append(t.host.Journal.Interfaces, pins.InterfaceRecord{
		ID: id, Index: i.Index, Name: i.Name, Catches: i.Catches,
	})
	return id, nil
}

// freeID returns an id that was given as long ago as can be, and when there are none
// left that of the interface that was recorded first among those that are gone.
func (t *Table) freeID() (uint16, error) {
	records := &t.host.Journal.Interfaces
	before := slices.Clone(*records)
	id, dropped := identity.NextID(records, t.host.Datapath().Devices.MaxEntries(), func(r pins.InterfaceRecord) (uint16, bool) { return r.ID, r.Index == 0 })
	if id == 0 {
		return 0, fmt.Errorf("%d interfaces are managed or caught already, which is as many as can be", len(*records))
	}
	if !dropped {
		return id, nil
	}
	if err := t.host.Forget(id); err != nil {
		*records = before // else it would be free, with what was counted for the one that is gone
		return 0, err
	}
	return id, nil
}
