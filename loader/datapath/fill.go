// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/config"
)

// Fill copies what the maps hold that are to be replaced. The programs that are
// attached go on writing to those, so that it is called right before others are put
// in their place. AddMissed adds the flows that they record in between.
func (d *Datapath) Fill() error {
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	d.filled = &clock
	for name, from := range d.maps.replaced {
		to := d.maps.all[name]
		switch name {
		case bpf.DatapathMapOutbound:
			err = copyHash[bpf.DatapathNote](to, from)
		case bpf.DatapathMapEvents:
			err = copyEvents(to, from)
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return d.copyAll()
}

// copyAll copies what is in use last: where there is no room for all, the kernel gives up what came first.
func (d *Datapath) copyAll() error {
	return errors.Join(
		d.copyFlows(func(_ *bpf.FlowTable, _ uint64, flow *bpf.DatapathFlow) (bool, error) { return isSpent(flow), nil }),
		d.copyFlows(func(_ *bpf.FlowTable, _ uint64, flow *bpf.DatapathFlow) (bool, error) { return !isSpent(flow), nil }))
}

// AddMissed copies the flows that were recorded since Fill in the tables that are replaced, once the
// programs that write to those are attached no more. What is known here stays. It works once. That it cannot is logged:
// such flows are entered with their next packet.
func (d *Datapath) AddMissed() {
	if d.filled == nil {
		return
	}
	if err := d.addMissed(*d.filled); err != nil {
		d.opts.Log.Warn("flows that began while the tables were replaced are known with their next packet", "error", err)
	}
	d.filled = nil
}

func (d *Datapath) addMissed(filled Clock) error {
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	since := age(clock.Now(), filled.Now())
	return d.copyFlows(func(to *bpf.FlowTable, digest uint64, flow *bpf.DatapathFlow) (bool, error) {
		if age(clock.Now(), flow.Seen) > since {
			return false, nil
		}
		return isMissed(to, digest, flow)
	})
}

// isMissed tells whether a table has no such flow, or has it open though it has closed since, which it forgets.
func isMissed(to *bpf.FlowTable, digest uint64, flow *bpf.DatapathFlow) (bool, error) {
	known, err := to.Find(digest)
	if known == nil || err != nil {
		return err == nil, err
	}
	if known.IsClosing() || !flow.IsClosing() || known.Created != flow.Created {
		return false, nil
	}
	return true, to.Delete(digest)
}

// copyFlows copies flows of the tables that are replaced.
func (d *Datapath) copyFlows(isWanted func(to *bpf.FlowTable, digest uint64, flow *bpf.DatapathFlow) (bool, error)) (err error) {
	for _, name := range flowMaps {
		if d.maps.replaced[name] == nil { // sizes changes all of them
			return nil
		}
	}
	to := FlowTables(d.maps.all)
	for _, from := range FlowTables(d.maps.replaced) {
		read := from.Each(func(digest uint64, flow *bpf.DatapathFlow) bool {
			var wanted bool
			if wanted, err = isWanted(&to[from.ID], digest, flow); wanted && err == nil {
				err = to[from.ID].Put(digest, flow)
			}
			return err == nil
		})
		if err := errors.Join(read, err); err != nil {
			return fmt.Errorf("copy %s: %w", TableName(from.ID), err)
		}
	}
	return nil
}

// isSpent tells a flow that is closing, or is none, or nothing but a question so far.
func isSpent(flow *bpf.DatapathFlow) bool {
	isOneWay := flow.State&uint8(bpf.DatapathFlowStateFLOW_REPLIED) == 0 && flow.Tuple.Protocol != config.ProtocolTCP
	return isOneWay || flow.IsClosing() || flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_STRAY) != 0
}

// copyEvents gives the counts of all CPUs to the first one of a table that nobody
// counts in yet.
func copyEvents(to, from *ebpf.Map) error {
	var counts []uint64
	for event := range min(to.MaxEntries(), from.MaxEntries()) {
		if err := from.Lookup(event, &counts); err != nil {
			return fmt.Errorf("read counter %d: %w", event, err)
		}
		for _, count := range counts[1:] {
			counts[0] += count
		}
		clear(counts[1:])
		if err := to.Put(event, counts); err != nil {
			return fmt.Errorf("write counter %d: %w", event, err)
		}
	}
	return nil
}

// copyHash copies what is known by digest.
func copyHash[V any](to, from *ebpf.Map) error {
	const most = 4096 // by one system call
	var (
		cursor  ebpf.MapBatchCursor
		digests = make([]uint64, most)
		values  = make([]V, most)
	)
	for {
		count, err := from.BatchLookup(&cursor, digests, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return fmt.Errorf("read entries: %w", err)
		}
		if count > 0 {
			if _, err := to.BatchUpdate(digests[:count], values[:count], nil); err != nil {
				return fmt.Errorf("write entries: %w", err)
			}
		}
		if last {
			return nil
		}
	}
}
