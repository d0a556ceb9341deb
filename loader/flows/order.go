// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"slices"
	"time"
)

// SortOrders are those that a listing can be put in.
var SortOrders = []Order{ByCorrected, ByBytes, ByAge}

// sortRows puts flows in order. Flows that are equal by it stand in the order of their tuples, which is the same in every
// look. Without an order that is the only one.
func sortRows(rows []*row, order Order, since func(tick uint32) time.Duration) {
	first := map[Order]func(a, b *row) int{
		"":          func(_, _ *row) int { return 0 },
		ByCorrected: func(a, b *row) int { return cmp.Compare(b.entry.Corrected, a.entry.Corrected) },
		ByBytes:     compareBytes,
		ByAge:       func(a, b *row) int { return cmp.Compare(since(a.entry.Created), since(b.entry.Created)) },
	}[order]
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Or(first(a, b), compareTuples(a, b)) })
}

// compareTuples looks at what differs least often last.
func compareTuples(a, b *row) int {
	s, t := &a.entry.Tuple, &b.entry.Tuple
	if order := cmp.Compare(s.Protocol, t.Protocol); order != 0 {
		return order
	}
	x, y := a.ends(), b.ends()
	return cmp.Or(x.peer.Compare(y.peer), x.self.Compare(y.self), cmp.Compare(a.in, b.in))
}

// compareBytes puts the largest first, and at the end what is not known.
func compareBytes(a, b *row) int {
	switch {
	case a.bytes() != nil && b.bytes() != nil:
		return cmp.Compare(*b.bytes(), *a.bytes())
	case a.bytes() != nil:
		return -1
	case b.bytes() != nil:
		return 1
	}
	return 0
}
