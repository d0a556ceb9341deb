// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// event is a kind of event that a CPU or the kernel counts (perf_event_open(2)).
type event struct {
	kind   uint32
	config uint64
}

// hardware is what a unit of work costs beside time, where the machine shows it: most virtual machines do not.
var hardware = []event{
	{unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES},
	{unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CACHE_MISSES},
}

// counters count events on a CPU, whoever causes them.
type counters struct{ files []int }

// openCounters starts to count. The error matches unix.ENOENT or unix.EOPNOTSUPP
// where the machine does not show such events.
func openCounters(cpu int, events []event) (*counters, error) {
	c := new(counters)
	for _, e := range events {
		attr := unix.PerfEventAttr{Type: e.kind, Config: e.config, Size: unix.PERF_ATTR_SIZE_VER1}
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("count events on CPU %d: %w", cpu, err), c.close())
		}
		c.files = append(c.files, fd)
	}
	return c, nil
}

// read returns the counts so far, in the order of the events.
func (c *counters) read() ([]uint64, error) {
	counts := make([]uint64, len(c.files))
	for i, fd := range c.files {
		var buffer [8]byte
		if _, err := unix.Read(fd, buffer[:]); err != nil {
			return nil, fmt.Errorf("read an event counter: %w", err)
		}
		counts[i] = binary.NativeEndian.Uint64(buffer[:])
	}
	return counts, nil
}

func (c *counters) close() error {
	var errs []error
	for _, fd := range c.files {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}
