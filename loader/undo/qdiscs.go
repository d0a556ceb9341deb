// SPDX-License-Identifier: Apache-2.0

package undo

import (
	"fmt"
	"slices"

	"replypath/loader/attach"
	"replypath/loader/pins"
)

// Qdiscs owns which clsact qdiscs were added on the host.
type Qdiscs struct {
	Records *[]pins.QdiscRecord // in the journal
	Save    func() error        // writes the journal
	// Host returns who looks for qdiscs and removes them.
	Host func() attach.Means
	Tx   *Tx
}

// Expect writes down, where an interface has no clsact qdisc, that one is about to be added.
func (q *Qdiscs) Expect(target attach.Interface) error {
	lacks, err := q.Host().LacksQdisc(target)
	if err != nil || !lacks {
		return err
	}
	q.forget(target.Index)
	*q.Records = append(*q.Records, pins.QdiscRecord{Interface: target.Index, Name: target.Name})
	q.Tx.OnAbort(func() error { return q.Drop(target, false) })
	return q.Save()
}

// Drop removes the qdisc of an interface, if it was added here and nobody else uses it. That of an interface that is gone
// went with it.
func (q *Qdiscs) Drop(target attach.Interface, gone bool) error {
	if !slices.ContainsFunc(*q.Records, func(r pins.QdiscRecord) bool { return r.Interface == target.Index }) {
		return nil
	}
	if !gone {
		if err := q.Host().RemoveQdisc(target); err != nil {
			return fmt.Errorf("put the qdiscs of %s back: %w", target.Name, err)
		}
	}
	q.forget(target.Index)
	return nil
}

func (q *Qdiscs) forget(device int) {
	*q.Records = slices.DeleteFunc(*q.Records, func(r pins.QdiscRecord) bool { return r.Interface == device })
}
