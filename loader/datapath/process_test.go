// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"runtime"
	"runtime/debug"
	"testing"
)

// TestWhileGCPaused: nothing is collected however much garbage there is, until the last one is done that asked for it.
func TestWhileGCPaused(t *testing.T) {
	const percent = 77
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	limit := debug.SetMemoryLimit(-1)
	want := errors.New("what it returns")
	err := WhileGCPaused(func() error {
		inner := WhileGCPaused(func() error { return want })
		before := collections()
		makeGarbage()
		if count := collections() - before; count != 0 {
			t.Errorf("%d collections", count)
		}
		return inner
	})
	if !errors.Is(err, want) {
		t.Errorf("it returned %v", err)
	}
	if got := debug.SetGCPercent(percent); got != percent {
		t.Errorf("collected at %d %% afterwards", got)
	}
	if got := debug.SetMemoryLimit(-1); got != limit {
		t.Errorf("limited to %d bytes afterwards, before to %d", got, limit)
	}
	before := collections()
	if makeGarbage(); collections() == before {
		t.Error("nothing is collected afterwards")
	}
}

func collections() uint32 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.NumGC
}

var garbage []byte

// makeGarbage makes several times as much as what a collection begins at.
func makeGarbage() {
	for range 256 {
		garbage = make([]byte, 1<<20)
	}
	garbage = nil
}
