package loader

import (
	"os"
	"runtime/debug"

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
		before := debug.SetMemoryLimit(limit)
		defer debug.SetMemoryLimit(before)
	}
	return datapath.Load(dir, options)
}
