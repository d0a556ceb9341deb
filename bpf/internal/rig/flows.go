// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// AddFlow enters a flow, over one that its tuple has.
func (d *Datapath) AddFlow(table *bpf.FlowTable, flow bpf.DatapathFlow) error {
	return table.Put(d.Seeds.Digest(flow.Tuple), &flow)
}

// ends is how the map `originated` knows a tuple.
func ends(tuple bpf.DatapathTuple) bpf.Ends {
	return bpf.Ends{Peer: tuple.Peer, Self: tuple.Self}
}

// Record returns what is kept of the addresses of a tuple, nil for nothing.
func (d *Datapath) Record(tuple bpf.DatapathTuple) (*bpf.DatapathRecord, error) {
	var record bpf.DatapathRecord
	err := d.Originated.Lookup(ends(tuple), &record)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read what is kept of two addresses: %w", err)
	}
	return &record, nil
}

// SetRecord writes what is kept of the addresses of a tuple.
func (d *Datapath) SetRecord(tuple bpf.DatapathTuple, record bpf.DatapathRecord) error {
	return put(d.Originated, ends(tuple), record)
}

// ForgetRelated empties what is kept of addresses.
func (d *Datapath) ForgetRelated() error {
	return errors.Join(
		deleteAll[bpf.Ends, bpf.DatapathRecord](d.Originated),
		d.ForgetLeads(bpf.DatapathLeadKindLEAD_ENDS),
	)
}
