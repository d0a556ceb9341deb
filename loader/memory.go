package loader

import (
	"os"
	"runtime/debug"
	"sync"

	"replypath/loader/datapath"
	"replypath/loader/pins"
)

// loadWithin loads programs in little memory: what is read for that, the kernel's types
// above all, is several times what is needed later. Garbage is collected meanwhile as often
// as it takes to stay within a limit, or nearly so. An operator's GOGC or GOMEMLIMIT says
// better.
func loadWithin(dir *pins.Dir, options datapath.Options) (*datapath.Datapath, error) {
	const limit = 18 << 20
	_, percent := os.LookupEnv("GOGC")
	_, limited := os.LookupEnv("GOMEMLIMIT")
	if !percent && !limited {
		defer limitMemory(limit)()
	}
	return datapath.Load(dir, options)
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
