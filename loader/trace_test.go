// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"testing"

	"replypath/loader/pins"
	"replypath/loader/trace"
)

func observer(ready func(), packet func(trace.Packet)) trace.Observer {
	return trace.Observer{Ready: ready, Packet: func(p trace.Packet) error { packet(p); return nil }, Lost: func(uint64) {}}
}

// TestTraceEnds: a trace ends when what it traces is taken away or has its place taken, instead of waiting for what no program
// tells it any more.
func TestTraceEnds(t *testing.T) {
	for name, change := range map[string]func(*server){
		"detached":                             func(b *server) { b.detach() },
		"detached and started again":           func(b *server) { b.detach(); b.start() },
		"the place is taken by another layout": func(b *server) { b.setForeignLayout(); b.start() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newServer(t)
			b.start().stop()
			ended, ready := make(chan error, 1), make(chan struct{})
			go func() { ended <- b.traceUntilTheEnd(func() { close(ready) }) }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatalf("the trace ended with %v", err)
			}
			change(b)
			select {
			case err := <-ended:
				if !errors.Is(err, pins.ErrNone) {
					t.Errorf("the trace ended with %v", err)
				}
			case <-within(t).Done():
				t.Error("the trace goes on")
			}
		})
	}
}

// traceUntilTheEnd traces everything until the test or the datapath ends.
func (b *server) traceUntilTheEnd(ready func()) error {
	return b.host.Do(func() error {
		return trace.Follow(b.Context(), b.dir, trace.Filter{}, observer(ready, func(trace.Packet) {}))
	})
}
