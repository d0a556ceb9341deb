package loader

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"replypath/loader/config"
	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/test/topology"
)

// reads is how many readers there are beside a writer, one after the other;
// readsVariable cuts it down, for virtual machines only.
const (
	reads         = 10_000
	readsVariable = "REPLYPATH_TEST_READS"
)

// readers are what the reading commands do.
func (b *bed) readers(s *topology.S1) []func() error {
	question := explain.Question{
		Peer: netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), 0),
		Self: netip.AddrPortFrom(s.B.Eth1.Address(topology.IPv4), 0),
	}
	return []func() error{
		func() error { _, err := ReadStatus(b.dir); return err },
		func() error { _, err := Mode(b.dir); return err },
		func() error { _, err := explain.Ask(b.dir, question); return err },
		func() error {
			table, err := flows.Open(b.dir)
			if err != nil {
				return err
			}
			_, err = table.List(flows.Filter{})
			return errors.Join(err, table.Close())
		},
	}
}

// TestReadersBesideAWriter reads while datapaths are started, resized, switched and
// ended, at any moment of that: no reader may see anything but a whole one.
func TestReadersBesideAWriter(t *testing.T) {
	count := reads
	if text := os.Getenv(readsVariable); text != "" {
		var err error
		count, err = strconv.Atoi(text)
		must(t, err)
	}
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil).stop()
	pingB(t, s)

	var done, failed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for _, read := range b.readers(s) {
		reading.Go(func() {
			for done.Add(1) <= int64(count) {
				if err := b.host.Do(read); err != nil && failed.Add(1) <= 5 {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		defer cancel()
		reading.Wait()
	}()
	writes := 0
	for ; ctx.Err() == nil; writes++ {
		r := b.start(func(o *Options) { o.Config.MaxEntries <<= writes % 2 })
		must(t, r.reload(func(c *config.Config) { c.MaxEntries <<= 2 + writes%3 }))
		b.setMode([]string{"observe", "enforce"}[writes%2])
		r.stop()
	}
	b.setMode("enforce")
	pingB(t, s)
	t.Logf("%d reads beside %d starts and as many reloads: %d errors", count, writes, failed.Load())
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
		must(t, (<-own).Remove())
	}
	t.Logf("%d rounds of %d writers: 1 owner in each", rounds, writers)
}
