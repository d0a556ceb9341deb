// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math/bits"
	"testing"

	"replypath/bpf"
)

// What an entry of such a hash takes besides key and value (kernel: struct htab_elem), and each of its buckets, of which there
// is a power of two.
const elementHead, bucket = 48, 16

// TestMemory: what grows with the tables takes at most 200 bytes for each flow that they are meant to hold, notes and all.
func TestMemory(t *testing.T) {
	const most = 200
	memory := func(largest uint32) (bytes, flows uint64) {
		for name, entries := range sizes(largest) {
			shape := bpf.Shapes()[name]
			bytes += uint64(entries)*uint64(shape.KeySize+(shape.ValueSize+7)/8*8+elementHead) + bucket<<bits.Len32(entries-1)
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
