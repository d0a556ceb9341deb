package datapath

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync"
)

// whileGCPaused calls f while no garbage is collected. To make a map with types, which `cat` and
// bpftool show its entries by, cilium/ebpf 0.22 loads these into the kernel and closes their
// descriptor again. Where a collection is under way just then it is closed twice (bpf.Close says
// why), the second time perhaps as that of a map that was opened meanwhile.
func whileGCPaused(f func() error) error {
	collection.pause()
	defer collection.resume()
	return f()
}

// collection is the process's. Several load at once in tests.
var collection pausable

type pausable struct {
	sync.Mutex
	pauses  int
	percent int   // before the first of them
	limit   int64 // as well
}

func (c *pausable) pause() {
	c.Lock()
	defer c.Unlock()
	if c.pauses++; c.pauses == 1 {
		c.percent, c.limit = debug.SetGCPercent(-1), debug.SetMemoryLimit(math.MaxInt64)
		runtime.GC() // one that is under way comes to its end
	}
}

func (c *pausable) resume() {
	c.Lock()
	defer c.Unlock()
	if c.pauses--; c.pauses == 0 {
		debug.SetMemoryLimit(c.limit)
		debug.SetGCPercent(c.percent)
	}
}
