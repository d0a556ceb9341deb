package datapath

import (
	"runtime/debug"
	"testing"
)

// TestMemoryLimitIsLifted: of two that load at once, the one that is done first leaves the
// limit, and the last one lifts it.
func TestMemoryLimitIsLifted(t *testing.T) {
	const limit = 1 << 30
	present := func() int64 { return debug.SetMemoryLimit(-1) }
	before := present()
	first, second := limitMemory(limit), limitMemory(limit)
	if first(); present() != limit {
		t.Errorf("%d bytes while one loads", present())
	}
	if second(); present() != before {
		t.Errorf("%d bytes, before %d", present(), before)
	}
}
