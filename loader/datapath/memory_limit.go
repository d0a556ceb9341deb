package datapath

import (
	"os"
	"runtime/debug"
	"sync"
)

// inLittleMemory calls what loads programs: what is read for that, the kernel's types
// above all, is several times what is needed later. Garbage is collected meanwhile as often
// as it takes to stay within a limit, or nearly so. An operator's GOGC or GOMEMLIMIT says
// better. A lower limit takes more of the processor and no less memory.
func inLittleMemory(load func() error) error {
	const limit = 16 << 20
	_, percent := os.LookupEnv("GOGC")
	_, limited := os.LookupEnv("GOMEMLIMIT")
	if !percent && !limited {
		lift := limitMemory(limit)
		defer func() { debug.FreeOSMemory(); lift() }() // else what loading took stays resident, and the heap grows to twice of it before it is collected
	}
	return load()
}

// loads counts those that go on at once, as in tests: the limit is the process's.
var loads struct {
	sync.Mutex
	count  int
	before int64 // the limit where nobody loads
}

// limitMemory sets the limit until the last of those who load calls what it returns.
func limitMemory(limit int64) (lift func()) {
	loads.Lock()
	defer loads.Unlock()
	if loads.count++; loads.count == 1 {
		loads.before = debug.SetMemoryLimit(limit)
	}
	return func() {
		loads.Lock()
		defer loads.Unlock()
		if loads.count--; loads.count == 0 {
			debug.SetMemoryLimit(loads.before)
		}
	}
}
