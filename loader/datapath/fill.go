// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
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
	if from := d.maps.replaced[bpf.DatapathMapEvents]; from != nil {
		err = copyEvents(d.maps.all[bpf.DatapathMapEvents], from)
	}
	return errors.Join(err, d.copyFlows(isAny), d.copyRest())
}

func isAny(*bpf.FlowTable, uint64, *bpf.DatapathFlow) (bool, error) { return true, nil }

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

// isMissed tells whether a table has no such flow, or has it open though it has closed since.
func isMissed(to *bpf.FlowTable, digest uint64, flow *bpf.DatapathFlow) (bool, error) {
	known, err := to.Find(digest)
	if known == nil || err != nil {
		return err == nil, err
	}
	return !known.IsClosing() && flow.IsClosing() && known.Created == flow.Created, nil
}

// copiesTable tells whether the table is replaced by one that gets what it holds: sizes changes both of its maps.
func (s *mapSet) copiesTable() bool {
	return s.replaced[bpf.DatapathMapBuckets] != nil && s.replaced[bpf.DatapathMapCells] != nil
}

// copyFlows copies flows of the table that is replaced. Where there is no room for all, what matters less is given up.
func (d *Datapath) copyFlows(isWanted func(to *bpf.FlowTable, digest uint64, flow *bpf.DatapathFlow) (bool, error)) (err error) {
	if !d.maps.copiesTable() {
		return nil
	}
	return bpf.TableOf(TableMaps(d.maps.all)).AtOnce(func(table bpf.Table) error {
		to := table.Flows()
		for _, from := range bpf.FlowTables(TableMaps(d.maps.replaced)) {
			read := from.Each(func(_ uint64, flow *bpf.DatapathFlow) bool {
				var wanted bool
				digest := d.opts.Seeds.Digest(flow.Tuple)
				if wanted, err = isWanted(&to[from.ID], digest, flow); wanted && err == nil {
					err = unlessFull(to[from.ID].Put(digest, flow))
				}
				return err == nil
			})
			if err := errors.Join(read, err); err != nil {
				return fmt.Errorf("copy %s: %w", TableName(from.ID), err)
			}
		}
		return nil
	})
}

// copyRest copies by which tuples the host spoke first, by which paths peers come, and what the host originated.
func (d *Datapath) copyRest() error {
	if !d.maps.copiesTable() {
		return nil
	}
	from := bpf.TableOf(TableMaps(d.maps.replaced))
	return bpf.TableOf(TableMaps(d.maps.all)).AtOnce(func(table bpf.Table) (err error) {
		notes, toNotes := bpf.Notes{Table: from}, bpf.Notes{Table: table}
		records, toRecords := bpf.Records{Table: from}, bpf.Records{Table: table}
		readNotes := notes.Each(func(n *bpf.DatapathNote) { err = cmp.Or(err, unlessFull(toNotes.Put(n))) })
		readRecords := records.Each(func(_ uint64, r *bpf.DatapathRecord) bool {
			ends := d.opts.Seeds.Ends(bpf.DatapathTuple{Peer: r.Peer, Self: r.Self})
			err = cmp.Or(err, unlessFull(toRecords.Put(ends, r)))
			return err == nil
		})
		if err := errors.Join(readNotes, readRecords, err); err != nil {
			return fmt.Errorf("copy notes and records: %w", err)
		}
		return nil
	})
}

func unlessFull(err error) error {
	if errors.Is(err, bpf.ErrNoRoom) {
		return nil
	}
	return err
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
