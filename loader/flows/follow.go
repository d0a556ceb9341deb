// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"context"
	"time"
)

// Follow calls report for every flow that begins, moves or ends, looking at the
// tables every so often, until the context ends, which is no error. Flows that
// are there at the start are reported as new. Where another datapath takes the place
// of the present one, its tables are followed; the error matches pins.ErrNone once
// there is none.
func (t *Table) Follow(ctx context.Context, filter Filter, every time.Duration, report func(Flow) error) error {
	filter.Limit = 0
	known := make(snapshot)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := t.renew(); err != nil {
			return err
		}
		present, err := t.snapshot(filter)
		if err != nil {
			return err
		}
		if err := t.report(known, present, report); err != nil {
			return err
		}
		known = present
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// report reports what has changed, with the kernel's choice as it is now.
func (t *Table) report(before, after snapshot, report func(Flow) error) error {
	c := newChooser()
	defer c.close()
	return changes(before, after, func(flow Flow) error {
		c.set(&flow)
		return report(flow)
	})
}

func (t *Table) snapshot(filter Filter) (snapshot, error) {
	present := make(snapshot)
	return present, t.each(filter, present.add)
}

// snapshot holds flows by their digests. A connection is the same before and after its
// handshake; where another one has begun with its tuple, the one that is established counts.
type snapshot map[uint64]Flow

func (s snapshot) add(digest uint64, flow Flow) {
	if _, known := s[digest]; !known || flow.State != StateHalfOpen {
		s[digest] = flow
	}
}

func changes(before, after snapshot, report func(Flow) error) error {
	for id, flow := range after {
		old, known := before[id]
		switch {
		case !known || flow.AgeSeconds+1 < old.AgeSeconds: // a new flow with the tuple of an old one
			flow.Event = EventNew
		case !sameWay(&old, &flow):
			flow.Event = EventMoved
		default:
			continue
		}
		if err := report(flow); err != nil {
			return err
		}
	}
	for id, flow := range before {
		if _, still := after[id]; still {
			continue
		}
		flow.Event = EventEnded
		if err := report(flow); err != nil {
			return err
		}
	}
	return nil
}

func sameWay(a, b *Flow) bool {
	return equal(a.Interface, b.Interface) && equal(a.NextHopMAC, b.NextHopMAC) &&
		equal(a.KernelInterface, b.KernelInterface) && a.Outcome == b.Outcome
}
