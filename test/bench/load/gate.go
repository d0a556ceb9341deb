// SPDX-License-Identifier: Apache-2.0

package load

import (
	"sync"
	"sync/atomic"
)

// gate is where loops rest between their turns. It is closed at first.
type gate struct {
	isOpen         atomic.Bool
	mu             sync.Mutex
	changed        *sync.Cond
	loops, resting int
}

func newGate() *gate {
	g := new(gate)
	g.changed = sync.NewCond(&g.mu)
	return g
}

// enter counts a loop that is going to pass.
func (g *gate) enter() { g.count(1) }

// leave is for a loop that does not come again.
func (g *gate) leave() { g.count(-1) }

func (g *gate) count(loops int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loops += loops
	g.changed.Broadcast()
}

// pass returns when the gate is open.
func (g *gate) pass() {
	if g.isOpen.Load() {
		return // costs next to nothing
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resting++
	g.changed.Broadcast()
	for !g.isOpen.Load() {
		g.changed.Wait()
	}
	g.resting--
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isOpen.Store(true)
	g.changed.Broadcast()
}

// close has each loop rest when it comes by again.
func (g *gate) close() { g.isOpen.Store(false) }

// awaitRest returns when all loops rest.
func (g *gate) awaitRest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.resting < g.loops {
		g.changed.Wait()
	}
}
