package loader

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadTime is what the calling thread has taken of a processor so far: work, and not how
// long it waited for its turn or for a lock of the kernel.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0 // no Linux lacks it
	}
	return time.Duration(t.Nano())
}
