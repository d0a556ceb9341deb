// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"replypath/bpf"
	"replypath/test/await"
)

// TestMemory: what grows with the tables takes at most 165 bytes for each flow that they
// are meant to hold, tags, notes and all.
func TestMemory(t *testing.T) {
	const most = 165
	memory := func(largest uint32) (bytes uint64, flows int) {
		spec, err := (&Options{MaxEntries: largest}).spec()
		await.Must(t, err)
		for name, m := range spec.Maps {
			bytes += uint64(m.MaxEntries) * uint64((m.ValueSize+7)/8*8) // those that grow are arrays, without keys
			if isFlowTable(name) && name != bpf.DatapathMapOutbound {
				flows += capacityFor(name, largest)
			}
		}
		return bytes, flows
	}
	bytes, flows := memory(1 << 18)
	moreBytes, moreFlows := memory(1 << 20)
	each := float64(moreBytes-bytes) / float64(moreFlows-flows)
	t.Logf("%.1f bytes more for each flow of capacity", each)
	if each > most {
		t.Errorf("more than %d", most)
	}
}
