// SPDX-License-Identifier: Apache-2.0

package rig

import "replypath/bpf"

// AddFlow enters a flow, over one that its tuple has.
func (d *Datapath) AddFlow(table *bpf.FlowTable, flow bpf.DatapathFlow) error {
	return table.Put(d.Seeds.Digest(flow.Tuple), &flow)
}

// Record returns the record of a tuple's addresses, nil for none.
func (d *Datapath) Record(tuple bpf.DatapathTuple) (*bpf.DatapathRecord, error) {
	return d.Records.Find(d.Seeds.Ends(tuple))
}

// SetRecord writes the record of a tuple's addresses.
func (d *Datapath) SetRecord(tuple bpf.DatapathTuple, record bpf.DatapathRecord) error {
	record.Peer, record.Self = tuple.Peer, tuple.Self
	return d.Records.Put(d.Seeds.Ends(tuple), &record)
}
