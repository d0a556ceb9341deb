// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/test/harness"
	"replypath/test/topology"
)

// reads is how many readers there are beside a writer, one after the other, and
// leastRounds how often it writes meanwhile at least; readsVariable cuts the reads down,
// for virtual machines only.
const (
	reads         = 10_000
	readsVariable = "REPLYPATH_TEST_READS"
	leastRounds   = 5
)

func readCount(t *testing.T) int {
	t.Helper()
	text := os.Getenv(readsVariable)
	if text == "" {
		return reads
	}
	count, err := strconv.Atoi(text)
	harness.Must(t, err)
	return count
}

// besides counts what was done side by side.
type besides struct {
	*bed
	looks  []atomic.Int64 // of each reader
	failed atomic.Int64
	rounds int // of writing
}

func (d *besides) reads() (sum int64) {
	for i := range d.looks {
		sum += d.looks[i].Load()
	}
	return sum
}

// awaitLooks returns when every reader has looked at what is there now.
func (d *besides) awaitLooks() {
	d.Helper()
	for i := range d.looks {
		enough := d.looks[i].Load() + 2 // one may be under way
		eventually(d.T, "a reader looks", func() bool { return d.looks[i].Load() >= enough })
	}
}

// readBeside has the readers read until they have done so often, all together, and writes
// meanwhile.
func (b *bed) readBeside(count int, readers []reader, write func(done *besides)) *besides {
	b.Helper()
	var reading sync.WaitGroup
	done := &besides{bed: b, looks: make([]atomic.Int64, len(readers))}
	ctx, cancel := context.WithCancel(b.Context())
	defer reading.Wait()
	defer cancel()
	for i, read := range readers {
		reading.Go(func() {
			for ; ctx.Err() == nil; done.looks[i].Add(1) {
				if err := b.host.Do(read); err != nil && done.failed.Add(1) <= 5 {
					b.Error(err)
				}
			}
		})
	}
	for ; done.rounds < leastRounds || done.reads() < int64(count); done.rounds++ {
		write(done)
	}
	return done
}

// TestReadersBesideAWriter reads while datapaths are started, resized, switched and
// ended, at any moment of that: no reader may see anything but a whole one, with all
// flows, and with counters that go on.
func TestReadersBesideAWriter(t *testing.T) {
	s := newS1(t, topology.S1Options{Policy: topology.AnySource})
	b := newBed(t, s.B.Host)
	sizes := []uint32{1, 2, 4, 8, 16}
	w := newWhole(b, s, sizes)
	readers := append(w.readers(), w.trace(newTracer(b, s)))
	done := b.readBeside(readCount(t), readers, func(done *besides) {
		r := b.start(func(o *Options) { o.Config.MaxEntries *= sizes[done.rounds%2] })
		done.awaitLooks() // before the flows are asked, which brings back what is lost
		w.ask()
		harness.Must(t, r.reload(func(c *config.Config) { c.MaxEntries *= sizes[2+done.rounds%3] }))
		done.awaitLooks()
		w.ask()
		w.switchMode()
		r.stop()
		w.ask()
	})
	t.Logf("%d reads, %d of them traces, beside %d starts, as many reloads, switches of the mode and ends: %d errors",
		done.reads(), done.looks[len(readers)-1].Load(), done.rounds, done.failed.Load())
}

// TestReadersBesideDetach reads while everything is taken away and put in place anew: every
// reader sees a datapath, or that there is none.
func TestReadersBesideDetach(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	n := newNoneOrOne(b, s)
	// Who finds nothing is soon done: it is the rounds that count.
	done := b.readBeside(0, n.readers(), func(done *besides) {
		var r *running
		n.change(func() { r = b.start(nil) })
		done.awaitLooks()
		r.stop()
		n.change(func() { b.detach() })
		done.awaitLooks()
	})
	t.Logf("%d reads beside %d starts and as many detachments: %d saw a datapath, %d none, %d errors",
		done.reads(), done.rounds, n.one.Load(), n.none.Load(), done.failed.Load())
}

// Of many that want to write at once one does, and is known to the others.
func TestWritersExcludeEachOther(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	const rounds, writers = 20, 8
	for range rounds {
		var owners, refused atomic.Int64
		var all sync.WaitGroup
		own := make(chan *pins.Dir, writers)
		for range writers {
			all.Go(func() {
				dir, err := pins.Own(b.dir)
				switch {
				case err == nil:
					owners.Add(1)
					own <- dir
				case errors.Is(err, ErrOwned):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if owners.Load() != 1 || refused.Load() != writers-1 {
			t.Fatalf("%d owners, %d refused", owners.Load(), refused.Load())
		}
		harness.Must(t, (<-own).Remove())
	}
	t.Logf("%d rounds of %d writers: 1 owner in each", rounds, writers)
}
