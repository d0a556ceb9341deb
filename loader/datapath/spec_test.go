// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// TestReserve: what CPUs keep free takes nothing from what an LRU hash is to hold.
func TestReserve(t *testing.T) {
	hashes := 0
	for name, m := range (&Options{}).shapes() {
		want := bpf.Shapes()[name].MaxEntries + bpf.Reserve()
		if m.Type != ebpf.LRUHash {
			continue
		}
		if hashes++; m.MaxEntries < want {
			t.Errorf("%s has %d entries, at least %d were to be", name, m.MaxEntries, want)
		}
	}
	if hashes == 0 {
		t.Error("there are none")
	}
}
