// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// View is a copy of an array that is mapped into memory: what it holds is read and written without a system call for
// every element.
type View[E any] struct {
	Elements []E
	m        *ebpf.Map
	memory   *ebpf.Memory
}

func newView[E any](m *ebpf.Map) (*View[E], error) {
	memory, err := m.Memory()
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", m, err)
	}
	return &View[E]{make([]E, m.MaxEntries()), m, memory}, nil
}

// Read copies what the array holds now.
func (v *View[E]) Read() error {
	if _, err := v.memory.ReadAt(v.bytes(), 0); err != nil {
		return fmt.Errorf("read %s: %w", v.m, err)
	}
	return nil
}

// Write replaces what the array holds.
func (v *View[E]) Write() error {
	if _, err := v.memory.WriteAt(v.bytes(), 0); err != nil {
		return fmt.Errorf("write %s: %w", v.m, err)
	}
	return nil
}

// Clear empties the array.
func (v *View[E]) Clear() error {
	clear(v.Elements)
	return v.Write()
}

func (v *View[E]) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&v.Elements[0])), len(v.Elements)*int(unsafe.Sizeof(v.Elements[0])))
}

// Views are what a datapath remembers that was loaded with Options.Mapped.
type Views struct {
	Flows [bpf.DatapathTableTABLE_END][]bpf.DatapathFlowSet // by enum table, in `flows`
	Tags  [bpf.DatapathTableTABLE_END][]uint64              // of each set of these, in `tags`
	flows *View[bpf.DatapathFlowSet]
	tags  *View[uint64]
}

// Views maps what a datapath remembers.
func (d *Datapath) Views() (*Views, error) {
	v := new(Views)
	var flowsErr, tagsErr error
	v.flows, flowsErr = newView[bpf.DatapathFlowSet](d.DatapathMaps.Flows)
	v.tags, tagsErr = newView[uint64](d.DatapathMaps.Tags)
	if err := errors.Join(flowsErr, tagsErr); err != nil {
		return nil, err
	}
	for _, table := range d.flowTables() {
		begin, end := table.At(0), table.At(table.MaxEntries())
		v.Flows[table.ID], v.Tags[table.ID] = v.flows.Elements[begin:end], v.tags.Elements[begin:end]
	}
	return v, nil
}

// ReadTables copies what the flow tables hold now.
func (v *Views) ReadTables() error { return errors.Join(v.flows.Read(), v.tags.Read()) }

// WriteTables replaces what they hold.
func (v *Views) WriteTables() error { return errors.Join(v.flows.Write(), v.tags.Write()) }

// ClearTables empties them.
func (v *Views) ClearTables() error { return errors.Join(v.flows.Clear(), v.tags.Clear()) }
