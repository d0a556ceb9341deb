// SPDX-License-Identifier: Apache-2.0

package show

import (
	"cmp"
	"slices"
	"strconv"

	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

var flowHeader = []string{"PROTOCOL", "PEER", "SELF", "INTERFACE", "NEXT HOP", "STATE", "AGE", "IDLE", "CORRECTED", "ASYMMETRIC"}

var originatedHeader = []string{"PROTOCOL", "PEER", "SELF", "KERNEL", "SOURCE", "OUTCOME", "AGE", "IDLE", "MOVED"}

func originatedRow(f *flows.Flow) []string {
	return []string{
		f.Protocol, output.Endpoint(f.Peer, f.PeerPort), output.Endpoint(f.Self, f.SelfPort),
		output.OrEmpty(f.KernelInterface), output.OrEmpty(f.Interface), f.Outcome,
		output.Duration(f.AgeSeconds), output.Duration(f.IdleSeconds), strconv.FormatUint(f.CorrectedPackets, 10),
	}
}

// columns are those of what is asked for.
func (f *flowCommand) columns() (header []string, row func(*flows.Flow) []string) {
	if f.filter.Originated {
		return originatedHeader, originatedRow
	}
	return flowHeader, flowRow
}

// flowOrder is what flows are sorted by. Of most that are compared the peer differs:
// what comes after it is only looked at where it has to be.
var flowOrder = []func(a, b *flows.Flow) int{
	func(a, b *flows.Flow) int { return cmp.Compare(a.Family, b.Family) },
	func(a, b *flows.Flow) int { return cmp.Compare(a.Protocol, b.Protocol) },
	func(a, b *flows.Flow) int { return cmp.Compare(a.Peer, b.Peer) },
	func(a, b *flows.Flow) int { return cmp.Compare(a.PeerPort, b.PeerPort) },
	func(a, b *flows.Flow) int { return cmp.Compare(a.Self, b.Self) },
	func(a, b *flows.Flow) int { return cmp.Compare(a.SelfPort, b.SelfPort) },
	func(a, b *flows.Flow) int { return cmp.Compare(a.State, b.State) },
}

// sortFlows brings flows into an order that stays the same from one look to the
// next.
func sortFlows(list []flows.Flow) {
	slices.SortFunc(list, func(a, b flows.Flow) int {
		for _, compare := range flowOrder {
			if order := compare(&a, &b); order != 0 {
				return order
			}
		}
		return 0
	})
}

func flowRow(f *flows.Flow) []string {
	return []string{
		f.Protocol, output.Endpoint(f.Peer, f.PeerPort), output.Endpoint(f.Self, f.SelfPort),
		output.OrEmpty(f.Interface), output.OrEmpty(f.NextHopMAC), f.State,
		output.Duration(f.AgeSeconds), output.Duration(f.IdleSeconds),
		strconv.FormatUint(f.CorrectedPackets, 10), output.YesNo(f.Asymmetric),
	}
}
