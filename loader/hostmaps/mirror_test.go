// SPDX-License-Identifier: Apache-2.0

package hostmaps

import (
	"maps"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/test/await"
)

// TestMirrorOfWhatOthersEnter: what somebody else has put into a map is found, and goes.
func TestMirrorOfWhatOthersEnter(t *testing.T) {
	table := await.Must1[*ebpf.Map](t)(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 8}))
	defer table.Close()
	var m *Mirror[uint32, uint32]
	desired := map[uint32]uint32{1: 10, 2: 20}
	for _, step := range []func() error{
		func() error { return readMirror(&m, "numbers", table) },
		func() error { return m.Sync(desired) },
		func() error { return table.Put(uint32(3), uint32(30)) },
		func() error { return m.Read() },
		func() error { return m.Sync(desired) },
		func() error { return readMirror(&m, "numbers", table) },
	} {
		await.Must(t, step())
	}
	if !maps.Equal(m.actual, desired) {
		t.Errorf("the map holds %v, not %v", m.actual, desired)
	}
}
