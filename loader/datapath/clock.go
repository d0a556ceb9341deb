// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// Hertz returns the kernel's CONFIG_HZ. The coarse clocks advance with the timer
// interrupt, so that their resolution is one jiffy (kernel/time/posix-timers.c,
// KTIME_LOW_RES).
func Hertz() (uint32, error) {
	var resolution unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &resolution); err != nil {
		return 0, fmt.Errorf("read the kernel's timer frequency: %w", err)
	}
	return uint32(math.Round(float64(time.Second) / float64(resolution.Nano()))), nil
}

// Clock tells the age of entries.
type Clock struct {
	now   uint32 // ticks when the clock was read
	hertz uint32
}

// ReadClock reads the clock that is pinned in the directory. The error matches
// pins.ErrNone where there is none.
func ReadClock(dir string) (Clock, error) {
	program, err := openRunnable(dir, clockName)
	if err != nil {
		return Clock{}, err
	}
	defer bpf.Close(program)
	return runClock(program)
}

func runClock(program *ebpf.Program) (Clock, error) {
	hertz, err := Hertz()
	if err != nil {
		return Clock{}, err
	}
	now, err := run(program, make([]byte, 64))
	if err != nil {
		return Clock{}, fmt.Errorf("run clock: %w", err)
	}
	return Clock{now: now, hertz: hertz}, nil
}

// Since returns the time since a tick; 0 for one that came after the reading.
func (c Clock) Since(tick uint32) time.Duration {
	return time.Duration(age(c.now, tick)) * time.Duration(bpf.DatapathTickJIFFIES_PER_TICK) * (time.Second / time.Duration(c.hertz))
}

// age is age_at() in bpf/src/flow.h.
func age(now, tick uint32) uint32 {
	ticks := now - tick
	if ticks > math.MaxUint32-uint32(bpf.DatapathTickTICKS_AHEAD) {
		return 0
	}
	return ticks
}

// Now returns the tick at which the clock was read.
func (c Clock) Now() uint32 { return c.now }
