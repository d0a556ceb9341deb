// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// Related returns the way by which the peer of a tuple comes to the own address, as an entry; nil where nothing proves one.
func (t *Table) Related(tuple bpf.DatapathTuple) (*Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	f, err := t.relatedFlow(v, tuple)
	if f == nil || err != nil {
		return nil, err
	}
	return t.Entry(*f)
}

// Entry is what a flow that is in no table would be, of what the host originates.
func (t *Table) Entry(raw bpf.DatapathFlow) (*Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	left, err := v.leftBetween(t.maps.Originated, bpf.DatapathEnds{Peer: raw.Tuple.Peer, Self: raw.Tuple.Self})
	return &Entry{Flow: v.flow(&raw, StateOriginated), Raw: raw, Left: left}, err
}

// leftBetween tells how the last packet left that the host originated from an own address to a peer.
func (v *view) leftBetween(originated *ebpf.Map, ends bpf.DatapathEnds) (Left, error) {
	var record bpf.DatapathRecord
	if err := lookup(originated, ends, &record); err != nil || record.To == 0 {
		return Left{}, err
	}
	left := v.left(record.Seen)
	left.Moved = bpf.DatapathOutcome(record.Outcome) == bpf.DatapathOutcomeOUTCOME_CORRECTED
	return left, nil
}

// relatedFlow is related_way() in bpf/src/related.h.
func (t *Table) relatedFlow(v *view, tuple bpf.DatapathTuple) (*bpf.DatapathFlow, error) {
	ends := bpf.DatapathEnds{Peer: tuple.Peer, Self: tuple.Self}
	var record bpf.DatapathRecord
	if err := lookup(t.maps.Originated, ends, &record); err != nil {
		return nil, err
	}
	f, err := t.goesOn(v, bpf.DatapathTable(record.Table), record.Flow)
	switch {
	case err != nil:
		return nil, err
	case v.isAnswered(&record, f != nil):
		way := &record.Answered
		return &bpf.DatapathFlow{
			Tuple: tuple, Ifindex: way.Ifindex, Interface: way.Interface, Gateway: way.Gateway, Mac: way.Mac, Flags: way.Flags,
		}, nil
	case f != nil:
		return f, nil
	}
	var digest uint64
	if err := lookup(t.maps.Questions, ends, &digest); err != nil || tuple.Protocol != unix.IPPROTO_UDP {
		return nil, err
	}
	asked, err := t.goesOn(v, bpf.DatapathTableTABLE_CONNECTIONLESS, digest)
	if asked == nil || asked.Tuple.SelfPort != tuple.SelfPort &&
		(asked.Tuple.PeerPort != tuple.PeerPort || !v.within(asked.Seen, bpf.DatapathIdleSecondsIDLE_QUESTION)) {
		return nil, err
	}
	return asked, nil
}

// isAnswered tells whether the way counts by which answers come: after a connection that goes on, before datagrams that do.
func (v *view) isAnswered(record *bpf.DatapathRecord, goesOn bool) bool {
	limit := bpf.DatapathIdleSecondsIDLE_OUTBOUND
	if goesOn {
		limit = bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS
	}
	isProven := goesOn && bpf.DatapathTable(record.Table) == bpf.DatapathTableTABLE_ESTABLISHED
	return !isProven && record.Answered.Ifindex != 0 && v.within(record.Heard, limit)
}

// within tells whether a time is at most so long ago.
func (v *view) within(ticks uint32, limit bpf.DatapathIdleSeconds) bool {
	return v.clock.Since(ticks) <= time.Duration(limit)*time.Second
}

// lookup leaves the value as it is where the map has none.
func lookup(m *ebpf.Map, ends bpf.DatapathEnds, value any) error {
	if err := m.Lookup(ends, value); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("read by which way a peer comes: %w", err)
	}
	return nil
}

// goesOn returns the flow with this digest, nil where it has ended.
func (t *Table) goesOn(v *view, table bpf.DatapathTable, digest uint64) (*bpf.DatapathFlow, error) {
	if digest == 0 {
		return nil, nil
	}
	s := states(t.maps)[table]
	f, err := datapath.FindFlow(s.table, digest)
	if f == nil || isNone(f, s.state, v.clock) || isClosing(f) {
		return nil, err
	}
	return f, nil
}
