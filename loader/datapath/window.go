// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// windowBytes is how much of an array is mapped at a time: what is mapped counts as memory of this process, and arrays
// may take gigabytes.
const windowBytes = 1 << 20

// window reads elements of an array without a system call for each.
type window[Element any] struct {
	array  *ebpf.Map
	memory []byte
	begin  uint64 // of the memory in the array
}

// at returns an element of the array, until it is called again.
func (w *window[Element]) at(index uint32) (*Element, error) {
	size := uint64(w.array.ValueSize())
	at := uint64(index) * size
	if at < w.begin || at+size > w.begin+uint64(len(w.memory)) {
		if err := w.move(at); err != nil {
			return nil, err
		}
	}
	return (*Element)(unsafe.Pointer(&w.memory[at-w.begin])), nil
}

// move has the window begin at the page of this offset.
func (w *window[Element]) move(to uint64) error {
	if err := w.close(); err != nil {
		return err
	}
	page := uint64(os.Getpagesize())
	end := (uint64(w.array.MaxEntries())*uint64(w.array.ValueSize()) + page - 1) / page * page
	w.begin = to / page * page
	if w.begin >= end {
		return errors.New("it is beyond the end")
	}
	memory, err := unix.Mmap(w.array.FD(), int64(w.begin), int(min(windowBytes, end-w.begin)), unix.PROT_READ, unix.MAP_SHARED)
	w.memory = memory
	return err
}

func (w *window[Element]) close() error {
	memory := w.memory
	if w.memory = nil; memory == nil {
		return nil
	}
	return unix.Munmap(memory)
}
