// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
)

// WhileGCPaused calls f while no garbage is collected. To make a map with types, which `cat` and
// bpftool show its entries by, cilium/ebpf 0.22 loads these into the kernel and closes their
// descriptor again. Where a collection is under way just then it is closed twice (bpf.Close says
// why), the second time perhaps as that of a map that was opened meanwhile.
func WhileGCPaused(f func() error) error {
	resume := collection.change(func() (undo func()) {
		percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(math.MaxInt64)
		runtime.GC() // one that is under way comes to its end
		return func() {
			debug.SetMemoryLimit(limit)
			debug.SetGCPercent(percent)
		}
	})
	defer resume()
	return f()
}

// InLittleMemory calls what loads programs: what is read for that, the kernel's types
// above all, is several times what is needed later. Garbage is collected meanwhile as often
// as it takes to stay within a limit, or nearly so. An operator's GOGC or GOMEMLIMIT says
// better. A limit of 16 MiB takes 0.13 s more of the processor and 2 MiB less.
func InLittleMemory(load func() error) error {
	const limit = 24 << 20
	_, percent := os.LookupEnv("GOGC")
	_, limited := os.LookupEnv("GOMEMLIMIT")
	if !percent && !limited {
		lift := limitMemory(limit)
		defer func() { debug.FreeOSMemory(); lift() }() // else what loading took stays resident, and the heap grows to twice of it before it is collected
	}
	return load()
}

// limitMemory sets the limit until the last of those who load calls what it returns.
func limitMemory(limit int64) (lift func()) {
	return memory.change(func() (undo func()) {
		before := debug.SetMemoryLimit(limit)
		return func() { debug.SetMemoryLimit(before) }
	})
}

var collection, memory setting

// setting is one of the process, which several change at once in tests: the first does, and the last takes it back.
type setting struct {
	sync.Mutex
	users int
	undo  func()
}

// change returns what ends the change.
func (s *setting) change(do func() (undo func())) (end func()) {
	s.Lock()
	defer s.Unlock()
	if s.users++; s.users == 1 {
		s.undo = do()
	}
	return func() {
		s.Lock()
		defer s.Unlock()
		if s.users--; s.users == 0 {
			s.undo()
		}
	}
}
