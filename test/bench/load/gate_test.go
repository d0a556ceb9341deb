// SPDX-License-Identifier: Apache-2.0

package load

import (
	"sync"
	"sync/atomic"
	"testing"

	"replypath/test/await"
)

// TestGate has loops work while it is open, and no longer than to their next turn. One that has left is not waited for.
func TestGate(t *testing.T) {
	const loops = 2
	g := newGate()
	var turns atomic.Int64
	var stopped atomic.Bool
	var ended sync.WaitGroup
	for range loops {
		g.enter()
		ended.Go(func() {
			defer g.leave()
			for g.pass(); !stopped.Load(); g.pass() {
				turns.Add(1)
			}
		})
	}
	g.awaitRest()
	await.Same(t, "turns behind a gate that is closed", 0, turns.Load())
	for range 10 {
		before := turns.Load()
		g.open()
		await.Becomes(t, "loops work", true, func() bool { return turns.Load() > before })
		g.close()
		g.awaitRest()
		await.Same(t, "loops that rest", loops, g.resting)
	}
	stopped.Store(true)
	g.open()
	ended.Wait()
	g.close()
	g.awaitRest()
}
