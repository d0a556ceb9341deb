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
	pausing.Lock() // tests make several at once
	defer pausing.Unlock()
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(math.MaxInt64)
	defer func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}()
	runtime.GC() // one that is under way comes to its end
	return f()
}

var pausing sync.Mutex

// InLittleMemory calls what loads programs: what is read for that, the kernel's types
// above all, is several times what is needed later. Garbage is collected meanwhile as often
// as it takes to stay within a limit, or nearly so. An operator's GOGC or GOMEMLIMIT says
// better. A limit of 16 MiB takes 0.13 s more of the processor and 2 MiB less.
func InLittleMemory(load func() error) error {
	const limit = 24 << 20
	_, percent := os.LookupEnv("GOGC")
	_, limited := os.LookupEnv("GOMEMLIMIT")
	if !percent && !limited {
		before := debug.SetMemoryLimit(limit)
		defer func() { // else what loading took stays resident, and the heap grows to twice of it before it is collected
			debug.FreeOSMemory()
			debug.SetMemoryLimit(before)
		}()
	}
	return load()
}
