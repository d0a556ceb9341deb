// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"replypath/test/await"
	"replypath/test/short"
)

// Readers beside a datapath that takes the place of another, and is committed at once, always find one: also a
// reader that looks between the two renames, and again when what was there before is gone.
func TestReadersBesideSwaps(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	await.Must(t, os.Mkdir(path(MapsDir), 0o700))
	var readers sync.WaitGroup
	defer readers.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var reads [2]atomic.Int64
	for i := range reads {
		readers.Go(func() {
			for ; ctx.Err() == nil; reads[i].Add(1) {
				if err := withPinned(dir, func(string) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	swaps := 500
	if short.Run(t) {
		swaps = 100
	}
	for range swaps {
		err := errors.Join(os.Mkdir(path(newMapsDir), 0o700), os.Rename(path(MapsDir), path(oldMapsDir)),
			os.Rename(path(newMapsDir), path(MapsDir)), os.Remove(path(oldMapsDir)))
		await.Must(t, err)
		// Starts are seconds apart: no reader is to meet two of them.
		for i := range reads {
			for before := reads[i].Load(); reads[i].Load() == before; {
				runtime.Gosched()
			}
		}
	}
}
