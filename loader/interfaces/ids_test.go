// SPDX-License-Identifier: Apache-2.0

package interfaces

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/pins"
	"replypath/test/await"
)

// TestNobodyInherits: the id of an interface that is gone is given to no other before what was counted for it is forgotten, also
// where that fails at first.
func TestNobodyInherits(t *testing.T) {
	devices := await.Must1[*ebpf.Map](t)(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 3}))
	t.Cleanup(func() { await.Must(t, bpf.Close(devices)) })
	journal := pins.Journal{Interfaces: []pins.InterfaceRecord{{ID: 1, Name: "gone"}, {ID: 2, Index: 7, Name: "eth0"}}}
	refusal, forgotten := errors.New("injected"), uint16(0)
	var d datapath.Datapath
	d.Devices = devices
	table := New(Host{
		Datapath: func() *datapath.Datapath { return &d },
		Journal:  &journal,
		Forget: func(id uint16) error {
			if refusal == nil {
				forgotten = id
			}
			return refusal
		},
	})
	eth1 := discover.Interface{Index: 8, Name: "eth1"}
	if _, err := table.identify(eth1); !errors.Is(err, refusal) {
		t.Errorf("it gets an id: %v", err)
	}
	refusal = nil
	id := await.Must1[uint16](t)(table.identify(eth1))
	await.Same(t, "id that is forgotten, and id that is given", []uint16{1, 1}, []uint16{forgotten, id})
	if _, err := table.identify(discover.Interface{Index: 9, Name: "eth2"}); err == nil {
		t.Error("another one gets an id, too")
	}
}
