// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
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
	if n := turns.Load(); n != 0 {
		t.Errorf("%d turns behind a gate that is closed", n)
	}
	for range 10 {
		before := turns.Load()
		g.open()
		await.Eventually(t, "loops work", func() error {
			if turns.Load() == before {
				return errors.New("they do not")
			}
			return nil
		})
		g.close()
		g.awaitRest()
		if g.resting != loops {
			t.Errorf("%d of %d loops rest", g.resting, loops)
		}
	}
	stopped.Store(true)
	g.open()
	ended.Wait()
	g.close()
	g.awaitRest()
}
