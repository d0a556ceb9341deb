package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// isCopied tells of maps whose entries are copied to one that takes their place.
func isCopied(name string) bool {
	return isFlowTable(name) || name == bpf.DatapathMapAsked || name == bpf.DatapathMapEvents
}

// isCounter tells of maps that are shared by all versions: the number of an event
// and the fields of a pair never get another meaning.
func isCounter(name string) bool {
	return name == bpf.DatapathMapEvents || name == bpf.DatapathMapPairs || name == bpf.DatapathMapPairSlots
}

// Fill copies what the maps hold that are to be replaced. The programs that are
// attached go on writing to those, so that it is called right before others are put
// in their place. AddMissed adds the flows that they record in between.
func (d *Datapath) Fill() error {
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	d.filled = &clock
	for name, from := range d.replaced {
		to := d.all[name]
		switch name {
		case bpf.DatapathMapOutbound:
			err = copyOutbound(to, from)
		case bpf.DatapathMapAsked:
			err = copyAsked(to, from)
		case bpf.DatapathMapEvents:
			err = copyEvents(to, from)
		default:
			err = copyFlows(to, d.all[bpf.TagsMap(name)], from, name, clock, d.opts.Seeds)
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return nil
}

// AddMissed copies the flows that were recorded since Fill in the tables that are replaced, once the
// programs that write to those are attached no more. What is known here stays. It works once.
func (d *Datapath) AddMissed() error {
	if d.filled == nil {
		return nil
	}
	clock, err := d.Clock()
	if err != nil {
		return err
	}
	since := age(clock.Now(), d.filled.Now())
	d.filled = nil
	for table, name := range tableNames[:bpf.DatapathTableTABLE_OUTBOUND] {
		if from := d.replaced[name]; from != nil {
			isMissed := func(flow *bpf.DatapathFlow) bool { return age(clock.Now(), flow.Seen) <= since }
			if err := d.addMissed(bpf.DatapathTable(table), from, isMissed); err != nil {
				return fmt.Errorf("copy what %s has recorded since: %w", name, err)
			}
		}
	}
	return nil
}

// addMissed has the kernel enter them, as programs write to the table already.
func (d *Datapath) addMissed(table bpf.DatapathTable, from *ebpf.Map, isMissed func(*bpf.DatapathFlow) bool) (err error) {
	read := EachFlow(from, func(digest uint64, flow *bpf.DatapathFlow) bool {
		if isMissed(flow) && d.opts.Seeds.Digest(flow.Tuple) == digest {
			err = runRequest(d.programs.Add, &bpf.DatapathAddRequest{Digest: digest, Table: uint32(table), Flow: *flow})
		}
		return err == nil
	})
	return errors.Join(read, err)
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
