// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"replypath/loader/datapath"
	"replypath/loader/pins"
	"replypath/loader/trace"
	"replypath/test/harness"
	"replypath/test/topology"
)

// TestTraceEnds: a trace ends when what it traces is taken away or has its place taken,
// instead of waiting for what no program tells it any more.
func TestTraceEnds(t *testing.T) {
	for name, change := range map[string]func(*bed){
		"detached": func(b *bed) { b.detach() },
		"detached and started again": func(b *bed) {
			b.detach()
			b.start(nil)
		},
		"the place is taken by another layout": func(b *bed) {
			b.setForeignLayout()
			b.start(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
			b.start(nil).stop()
			b.opened = nil
			ended := make(chan error, 1)
			ready := make(chan struct{})
			go func() {
				ended <- b.host.Do(func() error { return b.follow(func() { close(ready) }) })
			}()
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

// TestTraceWhileDetaching: a trace that begins when the directory of the links is gone already,
// and the maps are not yet, says that nothing is pinned.
func TestTraceWhileDetaching(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	b.start(nil).stop()
	links := filepath.Join(b.dir, datapath.LinksDir)
	harness.Must(t, os.Rename(links, links+"-aside"))
	err := b.host.Do(func() error { return b.follow(func() {}) })
	harness.Must(t, os.Rename(links+"-aside", links))
	if !errors.Is(err, pins.ErrNone) {
		t.Errorf("the trace ended with %v", err)
	}
}

// follow traces everything until the test or the datapath ends.
func (b *bed) follow(ready func()) error {
	return trace.Follow(b.Context(), b.dir, trace.Filter{}, trace.Observer{
		Ready:  ready,
		Packet: func(trace.Packet) error { return nil },
		Lost:   func(uint64) {},
	})
}
