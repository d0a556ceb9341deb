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
	t.host.Journal.Interfaces = append(t.host.Journal.Interfaces, pins.InterfaceRecord{ID: id, Index: i.Index, Name: i.Name})
	return id, nil
}

// freeID returns an id that was never used, and when there are none
// left that of the interface that was recorded first among those that are gone.
func (t *Table) freeID() (uint16, error) {
	last := uint16(0)
	for _, r := range t.host.Journal.Interfaces {
		last = max(last, r.ID)
	}
	if uint32(last)+1 < t.host.Maps().Interfaces.Size() {
		return last + 1, nil
	}
	oldest := slices.IndexFunc(t.host.Journal.Interfaces, func(r pins.InterfaceRecord) bool { return r.Index == 0 })
	if oldest < 0 {
		return 0, fmt.Errorf("%d interfaces are managed already, which is as many as can be", last)
	}
	id := t.host.Journal.Interfaces[oldest].ID
	t.host.Journal.Interfaces = slices.Delete(t.host.Journal.Interfaces, oldest, oldest+1)
	return id, t.host.Forget(id)
}
