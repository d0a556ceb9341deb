// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/loader/trace"
	"replypath/test/topology"
)

// noneOrOne is what every reader has to see while a datapath comes and goes.
type noneOrOne struct {
	*bed
	question  explain.Question
	capacity  int // of its flow tables
	none, one atomic.Int64
	// changes is odd while one is put in place, or taken away: in turn, from none on.
	changes atomic.Int64
}

func newNoneOrOne(b *bed, s *topology.S1) *noneOrOne {
	return &noneOrOne{bed: b, capacity: b.capacityOf(newConfig().MaxEntries), question: explain.Question{
		Peer: netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), 0),
		Self: netip.AddrPortFrom(s.B.Eth1.Address(topology.IPv4), 0),
	}}
}

// change puts a datapath in place, or takes it away.
func (n *noneOrOne) change(by func()) {
	n.changes.Add(1)
	by()
	n.changes.Add(1)
}

func (n *noneOrOne) readers() []reader {
	monitor := newMonitor(n.bed)
	return []reader{
		n.judged(func() error {
			s, err := status.Read(n.dir)
			if err == nil && s.Flows.Capacity != n.capacity {
				err = fmt.Errorf("flows in the status: %+v", s.Flows)
			}
			return err
		}),
		n.judged(func() error {
			mode, err := status.Mode(n.dir)
			if err == nil && mode != modesInTurn[0] {
				err = fmt.Errorf("mode %q", mode)
			}
			return err
		}),
		n.judged(func() error { _, err := explain.Ask(n.dir, n.question); return err }),
		n.judged(func() error {
			table, err := flows.Open(n.dir)
			if err != nil {
				return err
			}
			_, err = table.List(flows.Filter{})
			return errors.Join(err, table.Close())
		}),
		n.judged(func() error {
			ctx, cancel := context.WithCancel(n.Context())
			defer cancel()
			return trace.Follow(ctx, n.dir, trace.Filter{}, trace.Observer{
				Ready:  cancel,
				Packet: func(trace.Packet) error { return nil },
				Lost:   func(uint64) {},
			})
		}),
		n.judged(func() error { _, _, err := monitor.look(); return err }),
		n.judged(func() error { return n.followed(func(flows.Flow) error { return nil }) }),
		n.examined(),
	}
}

// judged counts what is seen. That there is none is no error, unless nobody has taken it away.
func (n *noneOrOne) judged(read reader) reader {
	return func() error {
		since := n.changes.Load()
		err := read()
		atRest, isOne := since%2 == 0 && since == n.changes.Load(), since/2%2 == 1
		switch {
		case errors.Is(err, ErrNotAttached):
			n.none.Add(1)
			if atRest && isOne {
				return err
			}
			return nil
		case err != nil:
			return err
		}
		n.one.Add(1)
		if atRest && !isOne {
			return errors.New("a datapath is seen where there is none")
		}
		return nil
	}
}
