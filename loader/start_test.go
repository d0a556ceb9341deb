// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"replypath/loader/attach"
	"replypath/test/await"
	"replypath/test/topology"
)

var errInjected = errors.New("injected")

// failAfter takes so many steps of a start, fails then, and returns how many steps there are.
func (b *server) failAfter(taken int, changes ...func(*Options)) (steps int) {
	b.Helper()
	b.inside(func() error {
		l := &Loader{newCore(b.options(changes...))}
		all := start{l.core}.steps()
		steps = len(all)
		err := start{l.core}.attempt(append(all[:taken:taken], func() error { return errInjected }))
		if err == nil || err.Error() != errInjected.Error() {
			b.Errorf("after step %d: %v", taken, err)
		}
		return nil
	})
	return steps
}

// eachFailure has a start fail after each of its steps, and looks at what that leaves.
func (b *server) eachFailure(look func(after string), changes ...func(*Options)) (failures int) {
	b.Helper()
	for taken, steps := 1, 1; taken <= steps; taken++ {
		steps = b.failAfter(taken, changes...)
		look(fmt.Sprintf("a failure after step %d", taken))
		failures++
	}
	return failures
}

func TestFailedStartIsUndone(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		// So that sockets that are bound to eth1 get a default route.
		b.ip(fmt.Sprintf("route add 10.77.0.0/16 via %s dev eth1", b.eth1.Gateway(topology.IPv4)))
		b.setRPFilter("eth1", 1)
		before := b.snapshot()
		failures := b.eachFailure(func(after string) {
			wantSame(b, after, before, b.snapshot())
			b.wantNoPins(after)
		}, by(mechanism))
		await.Must(t, os.Mkdir(b.dir, 0o700))
		b.failAfter(b.failAfter(1, by(mechanism)), by(mechanism))
		if left, err := os.ReadDir(b.dir); err != nil || len(left) != 0 {
			t.Errorf("left in a directory that was there before: %v, %v", left, err)
		}
		b.start(by(mechanism))
		b.awaitAttached("eth1")
		t.Logf("%d failures, 0 differences", failures)
	})
}
