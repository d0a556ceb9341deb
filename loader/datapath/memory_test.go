// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"replypath/bpf"
	"replypath/test/await"
)

// lruOverhead is what an entry of such a hash takes besides key and value, with its bucket (kernel: struct htab_elem).
const lruOverhead = 48 + 16

// TestMemory: what grows with the tables takes at most 170 bytes for each flow that they
// are meant to hold, tags, notes and all.
func TestMemory(t *testing.T) {
	const most = 170
	memory := func(largest uint32) (bytes uint64, flows int) {
		spec, err := (&Options{MaxEntries: largest}).spec()
		await.Must(t, err)
		for name, m := range spec.Maps {
			entry := (m.ValueSize + 7) / 8 * 8
			if name == bpf.DatapathMapOutbound { // the others that grow are arrays, without keys
				entry += m.KeySize + lruOverhead
			}
			bytes += uint64(m.MaxEntries) * uint64(entry)
		}
		return bytes, capacity(spec.Maps[bpf.DatapathMapFlows].MaxEntries)
	}
	bytes, flows := memory(1 << 18)
	moreBytes, moreFlows := memory(1 << 20)
	each := float64(moreBytes-bytes) / float64(moreFlows-flows)
	t.Logf("%.1f bytes more for each flow of capacity", each)
	if each > most {
		t.Errorf("more than %d", most)
	}
}
