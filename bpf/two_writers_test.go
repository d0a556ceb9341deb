// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"runtime"
	syncatomic "sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// meeting lets two threads go on at the same moment, again and again.
type meeting struct{ came syncatomic.Uint64 }

func (m *meeting) meet(round uint64) {
	for m.came.Add(1); m.came.Load() < 2*round; {
	}
}

// duel has two CPUs run the ingress program at once, each with its frame, until it is over.
type duel struct {
	b                *bed
	begin, end, next meeting
	isOver           syncatomic.Bool
}

// run is one CPU's part. After each round check is called, while the other one waits.
func (d *duel) run(cpu int, via nic, frame []byte, check func()) error {
	return host.Do(func() error {
		if err := rig.Pin(cpu); err != nil {
			return err
		}
		opts := &ebpf.RunOptions{Data: frame, Context: rig.Context{Ifindex: via.Index}}
		var err error
		for round := uint64(1); !d.isOver.Load(); round++ {
			d.begin.meet(round)
			if _, failed := d.b.ReplypathIngress.Run(opts); failed != nil {
				err = failed
			}
			d.end.meet(round)
			check()
			d.next.meet(round)
		}
		return err
	})
}

// TestTwoWriters: of two CPUs that write the way of a flow at once one's is left, never the interface of
// the one with the MAC of the other.
func TestTwoWriters(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("there is one CPU only")
	}
	const rounds, patience = 100_000, 3 * time.Second
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, slowWay)
			b.follow(bpf.DatapathFollowFOLLOW_LATEST)
			b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
			d := duel{b: b}
			last, round, torn := time.Now().Add(patience), 0, 0
			other := make(chan error, 1)
			go func() { other <- d.run(0, b.backup, n.in(b.backup, udp{}), func() {}) }()
			err := d.run(1, b.replication, n.in(b.replication, udp{}), func() {
				round++
				if b.isTorn() {
					torn++
				}
				d.isOver.Store(round == rounds || time.Now().After(last))
			})
			b.must(err)
			b.must(<-other)
			if torn != 0 {
				t.Errorf("after %d of %d rounds the flow had the interface of one CPU's frame and the MAC of the other's", torn, round)
			}
		})
	}
}

// isTorn tells whether the only flow has a way that no frame came.
func (b *bed) isTorn() bool {
	var set bpf.DatapathFlowSet
	if err := b.Connectionless.Lookup(uint32(0), &set); err != nil {
		b.t.Error(err)
	}
	for way, digest := range set.Digest {
		f := &set.Flow[way]
		if digest != 0 {
			return !(f.Ifindex == b.replication.Index && f.Mac == rig.MAC(b.replication.router) ||
				f.Ifindex == b.backup.Index && f.Mac == rig.MAC(b.backup.router))
		}
	}
	return true
}
