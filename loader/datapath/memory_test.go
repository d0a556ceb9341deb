// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"replypath/bpf"
)

// lruOverhead is what an entry of such a hash takes besides key and value, with its bucket (kernel: struct htab_elem).
const lruOverhead = 48 + 16

// TestMemory: what grows with the tables takes at most 180 bytes for each flow that they are meant to hold, notes and all.
func TestMemory(t *testing.T) {
	const most = 180
	memory := func(largest uint32) (bytes, flows uint64) {
		for name, entries := range sizes(largest) {
			shape := bpf.Shapes()[name]
			bytes += uint64(entries) * uint64(shape.KeySize+(shape.ValueSize+7)/8*8+lruOverhead)
			if name != bpf.DatapathMapOutbound {
				flows += uint64(entries)
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
