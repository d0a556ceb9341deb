// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Entry is what a flow table holds, as the programs read it.
type Entry struct {
	Flow
	Raw  bpf.DatapathFlow
	Idle bool // the programs take it for none
	Left Left
}

// Left is how the last packet of this host was seen leaving.
type Left struct {
	At    *time.Time // to a second; nil: none was
	Moved bool       // replypath moved it
}

func (v *view) left(tick uint32) Left {
	const parts, moved = uint32(bpf.DatapathTickLEFT_TICKS - 1), uint32(bpf.DatapathTickLEFT_MOVED)
	if tick == 0 {
		return Left{}
	}
	return Left{At: new(time.Now().Add(-v.clock.Since(tick &^ parts))), Moved: tick&moved != 0}
}

// Entries returns the flows whose tuple matches, idle ones included, in no
// particular order.
func (t *Table) Entries(matches func(*bpf.DatapathTuple) bool) ([]Entry, error) {
	return t.entries(func(s stateTable, offer func(*bpf.DatapathFlow)) error {
		return s.Each(func(_ uint64, raw *bpf.DatapathFlow) bool {
			if matches(&raw.Tuple) {
				offer(raw)
			}
			return true
		})
	})
}

// Lookup is Entries for one tuple, which is found without looking through the
// tables. The seeds are those that the tables were filled with.
func (t *Table) Lookup(tuple bpf.DatapathTuple, seeds bpf.Seeds) ([]Entry, error) {
	digest := seeds.Digest(tuple)
	return t.entries(func(s stateTable, offer func(*bpf.DatapathFlow)) error {
		raw, err := s.Find(digest)
		if raw != nil && raw.Tuple == tuple {
			offer(raw)
		}
		return err
	})
}

// entries returns the flows that find offers of each table.
func (t *Table) entries(find func(s stateTable, offer func(*bpf.DatapathFlow)) error) ([]Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, s := range states(t.maps) {
		err := find(s, func(raw *bpf.DatapathFlow) {
			if !isStray(raw) {
				entries = append(entries, Entry{Flow: v.flow(raw, s.state), Raw: *raw, Idle: isIdle(raw, s.state, v.clock), Left: v.left(raw.Left)})
			}
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.state, err)
		}
	}
	return entries, nil
}

// Originated is what a flow that is in no table would be, of what the host originates from an own address to a peer.
func (t *Table) Originated(raw bpf.DatapathFlow) (*Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	entry := &Entry{Flow: v.flow(&raw, StateOriginated), Raw: raw}
	var record bpf.DatapathRecord
	err = t.maps.Originated.Lookup(bpf.DatapathEnds{Peer: raw.Tuple.Peer, Self: raw.Tuple.Self}, &record)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read what the host originated: %w", err)
	}
	if record.To != 0 {
		entry.Left = v.left(record.Seen)
		entry.Left.Moved = bpf.DatapathOutcome(record.Outcome) == bpf.DatapathOutcomeOUTCOME_CORRECTED
	}
	return entry, nil
}
