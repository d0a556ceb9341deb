// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"slices"
	"time"

	"replypath/bpf"
)

// Order is what flows are chosen by, and put in order.
type Order string

// Orders.
const (
	ByRate      Order = "rate"      // most packets corrected since the last look
	ByCorrected Order = "corrected" // most packets corrected in all
	ByAge       Order = "age"       // the youngest
	ByBytes     Order = "bytes"     // most bytes sent; of TCP alone
)

// BusyOrders lists those that a Meter knows.
var BusyOrders = []Order{ByRate, ByCorrected, ByAge}

// Busy is a flow with how many of its packets were corrected since the last look.
type Busy struct {
	Flow
	Corrected uint64
}

// Meter tells which flows are busy by comparing one look at the tables with the
// next.
type Meter struct {
	Order Order
	Limit int // of the flows that are told

	corrected map[life]uint64 // of corrected flows, at the last look
}

// life is one flow of a tuple, which an established connection shares with its
// handshake.
type life struct {
	digest  uint64
	created uint32
}

// Read looks at the tables, which are pinned in the directory, and returns the busiest of the corrected flows that have not
// ended. Of the first look nothing is known to be since the last.
func (m *Meter) Read(dir string, maps *bpf.Maps) (tables []TableUsage, busiest []Busy, err error) {
	v, err := (&Table{dir: dir, maps: maps}).newView()
	if err != nil {
		return nil, nil, err
	}
	best, present := m.newRanking(), make(map[life]uint64, len(m.corrected))
	tables, err = Usage(maps, v.clock, nil, func(flow *bpf.DatapathFlow, state string) {
		if flow.Corrected == 0 {
			return
		}
		id := life{v.digest(flow), flow.Created}
		present[id] = flow.Corrected
		c := candidate{id: id, state: state, flow: flow, age: v.clock.Since(flow.Created), since: m.since(id, flow)}
		if !c.isOver() {
			best.offer(c)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	m.corrected = present
	for _, c := range best.best {
		busiest = append(busiest, Busy{v.flow(c.flow, c.state), c.since})
	}
	return tables, busiest, nil
}

// since returns how many packets were corrected since the last look. Flows that
// were not there then, or had none corrected, began at 0.
func (m *Meter) since(id life, flow *bpf.DatapathFlow) uint64 {
	before := m.corrected[id]
	if m.corrected == nil || flow.Corrected < before {
		return 0
	}
	return flow.Corrected - before
}

// candidate is a flow that may be one of the busiest.
type candidate struct {
	id    life
	state string
	flow  *bpf.DatapathFlow
	age   time.Duration
	since uint64
}

// isOver tells of a connection that one end has closed, and of which nothing was corrected since the last look. Its
// entry stays for what may come late.
func (c *candidate) isOver() bool { return c.flow.IsClosing() && c.since == 0 }

// ranking keeps the first of those that are offered to it.
type ranking struct {
	limit   int
	compare func(a, b candidate) int
	best    []candidate
}

// newRanking returns one by the order. Flows that are equal by it keep their places from one look to the next.
func (m *Meter) newRanking() *ranking {
	compare := map[Order]func(a, b candidate) int{
		ByRate:      func(a, b candidate) int { return cmp.Compare(b.since, a.since) },
		ByCorrected: func(a, b candidate) int { return cmp.Compare(b.flow.Corrected, a.flow.Corrected) },
		ByAge:       func(a, b candidate) int { return cmp.Compare(a.age, b.age) },
	}[m.Order]
	return &ranking{limit: m.Limit, compare: func(a, b candidate) int {
		return cmp.Or(compare(a, b), cmp.Compare(a.id.digest, b.id.digest), cmp.Compare(a.state, b.state))
	}}
}

// offer takes a flow that is only valid during the call.
func (r *ranking) offer(c candidate) {
	place, _ := slices.BinarySearchFunc(r.best, c, r.compare)
	if place == r.limit {
		return
	}
	flow := *c.flow
	c.flow = &flow
	r.best = slices.Insert(r.best, place, c)
	r.best = r.best[:min(len(r.best), r.limit)]
}
