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
	Flows [3]*View[bpf.DatapathFlowSet] // in the order of enum table
	Tags  [3]*View[uint64]              // of each set of these

	Fragments *View[bpf.DatapathFragmentSet]
	Asked     *View[bpf.DatapathAskedSet]
}

// Views maps what a datapath remembers.
func (d *Datapath) Views() (*Views, error) {
	v := new(Views)
	errs := make([]error, 3)
	v.Fragments, errs[0] = newView[bpf.DatapathFragmentSet](d.DatapathMaps.Fragments)
	v.Asked, errs[1] = newView[bpf.DatapathAskedSet](d.Asked)
	for i, table := range []*ebpf.Map{d.HalfOpen, d.Established, d.Connectionless} {
		var err, tagsErr error
		v.Flows[i], err = newView[bpf.DatapathFlowSet](table)
		v.Tags[i], tagsErr = newView[uint64](d.TagsOf(table))
		errs = append(errs, err, tagsErr)
	}
	return v, errors.Join(errs...)
}

// ReadTables copies what the flow tables hold now.
func (v *Views) ReadTables() error {
	return v.eachTable(func(t table) error { return t.Read() })
}

// WriteTables replaces what they hold.
func (v *Views) WriteTables() error {
	return v.eachTable(func(t table) error { return t.Write() })
}

// ClearTables empties them.
func (v *Views) ClearTables() error {
	return v.eachTable(func(t table) error { return t.Clear() })
}

type table interface {
	Read() error
	Write() error
	Clear() error
}

func (v *Views) eachTable(do func(table) error) (err error) {
	for i := range v.Flows {
		err = errors.Join(err, do(v.Flows[i]), do(v.Tags[i]))
	}
	return err
}
