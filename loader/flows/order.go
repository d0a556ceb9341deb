// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"slices"
)

// SortOrders are those that a listing can be put in.
var SortOrders = []Order{ByCorrected, ByBytes, ByAge}

// tupleOrder is what flows are sorted by that are equal otherwise. Of most that are compared the peer differs:
// what comes after it is only looked at where it has to be.
var tupleOrder = []func(a, b *Flow) int{
	func(a, b *Flow) int { return cmp.Compare(a.Family, b.Family) },
	func(a, b *Flow) int { return cmp.Compare(a.Protocol, b.Protocol) },
	func(a, b *Flow) int { return cmp.Compare(a.Peer, b.Peer) },
	func(a, b *Flow) int { return cmp.Compare(a.PeerPort, b.PeerPort) },
	func(a, b *Flow) int { return cmp.Compare(a.Self, b.Self) },
	func(a, b *Flow) int { return cmp.Compare(a.SelfPort, b.SelfPort) },
	func(a, b *Flow) int { return cmp.Compare(a.State, b.State) },
}

// Sort puts flows in order. Flows that are equal by it stand in the order of their tuples, which is the same in every look.
// Without an order that is the only one.
func Sort(list []Flow, order Order) {
	first := map[Order]func(a, b *Flow) int{
		ByCorrected: func(a, b *Flow) int { return cmp.Compare(b.CorrectedPackets, a.CorrectedPackets) },
		ByBytes:     compareBytes,
		ByAge:       func(a, b *Flow) int { return cmp.Compare(a.AgeSeconds, b.AgeSeconds) },
	}[order]
	orders := tupleOrder
	if first != nil {
		orders = slices.Concat([]func(a, b *Flow) int{first}, tupleOrder)
	}
	places := make([]int, len(list))
	for n := range places {
		places[n] = n
	}
	slices.SortFunc(places, func(a, b int) int {
		for _, compare := range orders {
			if order := compare(&list[a], &list[b]); order != 0 {
				return order
			}
		}
		return 0
	})
	move(list, places)
}

// move puts at each place what stood at the one that is named for it, without a second list: flows are large.
func move(list []Flow, places []int) {
	for begin := range places {
		first, at := list[begin], begin
		for places[at] != begin {
			next := places[at]
			list[at], places[at] = list[next], at
			at = next
		}
		list[at], places[at] = first, at
	}
}

// compareBytes puts the largest first, and at the end what is not known.
func compareBytes(a, b *Flow) int {
	switch {
	case a.Bytes != nil && b.Bytes != nil:
		return cmp.Compare(*b.Bytes, *a.Bytes)
	case a.Bytes != nil:
		return -1
	case b.Bytes != nil:
		return 1
	}
	return 0
}
