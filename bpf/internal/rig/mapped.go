// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
)

// View is a copy of an array that is mapped into memory: what it holds is read and written without a system call for
// every element.
type View struct {
	Elements []uint64
	m        *ebpf.Map
	memory   *ebpf.Memory
}

func newView(m *ebpf.Map) (*View, error) {
	memory, err := m.Memory()
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", m, err)
	}
	return &View{make([]uint64, m.MaxEntries()*m.ValueSize()/8), m, memory}, nil
}

// Read copies what the array holds now.
func (v *View) Read() error {
	if _, err := v.memory.ReadAt(v.bytes(), 0); err != nil {
		return fmt.Errorf("read %s: %w", v.m, err)
	}
	return nil
}

// Write replaces what the array holds.
func (v *View) Write() error {
	if _, err := v.memory.WriteAt(v.bytes(), 0); err != nil {
		return fmt.Errorf("write %s: %w", v.m, err)
	}
	return nil
}

// Clear empties the array.
func (v *View) Clear() error {
	clear(v.Elements)
	return v.Write()
}

func (v *View) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&v.Elements[0])), len(v.Elements)*int(unsafe.Sizeof(v.Elements[0])))
}
