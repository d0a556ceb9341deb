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
	"replypath/test/short"
)

// What a program finds while another CPU writes: states that last for a moment.

// beginWrite leaves a set as it is while another CPU enters this flow: the digest is there, its tag is not yet.
func (b *bed) beginWrite(way int, f bpf.DatapathFlow) {
	b.t.Helper()
	var set bpf.DatapathFlowSet
	set.Digest[way], set.Flow[way] = b.Seeds.Digest(f.Tuple), f
	b.must(b.Connectionless.Put(uint32(0), set))
	b.must(b.Connectionless.PutTags(0, 0))
}

func (b *bed) entries(n network, m message) (count int) {
	b.t.Helper()
	var set bpf.DatapathFlowSet
	b.must(b.Connectionless.Lookup(uint32(0), &set))
	for _, digest := range set.Digest {
		if digest == b.Seeds.Digest(n.tuple(m)) {
			count++
		}
	}
	return count
}

// TestFragmentMeanwhile: what is known of a fragment's packet may be of the next one already, which has another peer,
// or asked another address.
func TestFragmentMeanwhile(t *testing.T) {
	m := udp{}
	for name, other := range map[string]func(network) network{
		"another peer":    newcomer,
		"another address": func(n network) network { return n.at(n.other) },
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			frames, next := n.inPieces(b.production, 1), other(n)
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)), connectionlessFlow(b.flow(next, m, b.backup, 0)))
			b.exec(egress(b.production, frames.first))
			b.rewriteFragments(b.Seeds.Digest(next.tuple(m)))
			b.run(egress(b.production, frames.later), unread(eventUnparsedFragment))
		})
	}
}

// rewriteFragments has all that is known of fragments be about this flow.
func (b *bed) rewriteFragments(digest uint64) {
	b.t.Helper()
	known, err := b.KnownFragments()
	b.must(err)
	for key, fragment := range known {
		fragment.Digest = digest
		b.must(b.Fragments.Put(key, fragment))
	}
	if len(known) != 1 {
		b.t.Fatalf("%d packets come in fragments, want 1", len(known))
	}
}

// TestEnteredMeanwhile: two CPUs may find no flow for the same tuple. The one that comes second leaves the first
// one's entry alone, unless that is over.
func TestEnteredMeanwhile(t *testing.T) {
	m := udp{}
	for name, c := range map[string]struct {
		age      uint32
		replaced bool
	}{
		"live": {0, false},
		"idle": {idleConnectionless + 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			eachFamilyOn(t, interrupted, func(t *testing.T, b *bed, n network) {
				first := b.flow(n, m, b.backup, c.age)
				var set bpf.DatapathFlowSet
				set.Digest[5], set.Flow[5] = b.Seeds.Digest(first.Tuple), first
				b.must(b.Meanwhile(set))
				b.keepPeriod()
				want := b.admits(n, m, b.replication)
				if !c.replaced {
					want = unread(eventInsertFailedConnectionless)
					want.tables = connectionlessFlow(first)
				}
				b.arrives(n, m, want)
			})
		})
	}
}

// TestReplacedMeanwhile: the place of a handshake may be another one's by the time that its SYN, which is sent again,
// comes to be noted there. That one keeps its way, and the other is counted with the handshakes that found no place.
func TestReplacedMeanwhile(t *testing.T) {
	eachFamilyOn(t, interruptedHandshake, func(t *testing.T, b *bed, n network) {
		b.put(halfOpen(b.flow(n, syn, b.replication, 0)))
		other := b.flow(newcomer(n), syn, b.backup, 0)
		var found, set bpf.DatapathFlowSet
		b.must(b.HalfOpen.Lookup(uint32(0), &found))
		for way, digest := range found.Digest {
			if digest != 0 {
				set.Digest[way], set.Flow[way] = b.Seeds.Digest(other.Tuple), other
			}
		}
		b.must(b.Meanwhile(set))
		want := unread(eventInsertFailedHalfOpen)
		want.tables = func(t tables) {
			clear(t.HalfOpen)
			t.HalfOpen[other.Tuple] = other
		}
		b.arrives(n, syn, want)
	})
}

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

// TestTwoWriters: of two CPUs that write the way of a flow at once one's is left, never the interface of the one with
// the MAC of the other.
func TestTwoWriters(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("there is one CPU only")
	}
	const rounds = 100_000
	patience := either(short.Run(t), time.Second, 3*time.Second)
	eachFamilyOn(t, slowWay, func(t *testing.T, b *bed, n network) {
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

func (b *bed) sets(n network, m message) (first, second uint32) {
	return bpf.Sets(b.Seeds.Digest(n.tuple(m)), b.Established.MaxEntries())
}

// eachManySets runs a test for both families on tables of several sets, for a tuple of the message whose two sets
// differ.
func eachManySets(t *testing.T, m message, f func(*testing.T, *bed, network)) {
	t.Helper()
	eachFamilyOn(t, manySets, func(t *testing.T, b *bed, n network) {
		for _, n := range crowd(n, 1000) {
			if first, second := b.sets(n, m); first != second {
				f(t, b, n)
				return
			}
		}
		t.Fatal("every tuple has the same set twice")
	})
}

// neighbours are networks whose tuples have this first set, and which are none of these.
func (b *bed) neighbours(n network, m message, set uint32, count int, but ...network) []network {
	b.t.Helper()
	var found []network
	for _, other := range crowd(n, 60_000) {
		taken := false
		for _, n := range but {
			taken = taken || n.peer == other.peer
		}
		if first, _ := b.sets(other, m); first == set && !taken {
			found = append(found, other)
		}
		if len(found) == count {
			return found
		}
	}
	b.t.Fatalf("%d of %d tuples have set %d", len(found), count, set)
	return nil
}

// crowdSet fills a set of the connectionless table with these flows.
func (b *bed) crowdSet(index uint32, flows ...bpf.DatapathFlow) {
	b.t.Helper()
	var set bpf.DatapathFlowSet
	for way, f := range flows {
		set.Digest[way], set.Flow[way] = b.Seeds.Digest(f.Tuple), f
	}
	b.must(b.Connectionless.Put(index, set))
	b.must(b.Connectionless.PutTags(index, bpf.Tags(set.Digest)))
}

// TestSecondSetEviction: where both sets of a tuple are full, it is the one of them that makes room more readily,
// whichever that is.
func TestSecondSetEviction(t *testing.T) {
	const oldest = 3
	m := udp{}
	for name, inSecond := range map[string]bool{"first": false, "second": true} {
		t.Run(name, func(t *testing.T) {
			eachManySets(t, m, func(t *testing.T, b *bed, n network) {
				var gone bpf.DatapathFlow
				first, second := b.sets(n, m)
				for _, set := range []uint32{first, second} {
					var flows []bpf.DatapathFlow
					for i, other := range b.neighbours(n, m, set, ways, n) {
						age := either(i == oldest && (set == second) == inSecond, 20, uint32(10))
						flows = append(flows, b.flow(other, m, b.replication, age))
						if age == 20 {
							gone = flows[i]
						}
					}
					b.crowdSet(set, flows...)
				}
				b.keepPeriod()
				born := b.born(n, m, b.replication)
				b.run(ingress(b.replication, n.in(b.replication, m)), effect{
					events: events{eventAdmittedConnectionless: 1, eventEvictedConnectionless: 1},
					tables: func(t tables) {
						delete(t.Connectionless, gone.Tuple)
						t.Connectionless[born.Tuple] = born
					},
				})
			})
		})
	}
}

// TestSecondSetHandshake: the handshake of the next connection with the tuple of one that is closing is found in its
// second set as well.
func TestSecondSetHandshake(t *testing.T) {
	eachManySets(t, syn, func(t *testing.T, b *bed, n network) {
		closing := b.flow(n, tcp{}, b.replication, 0)
		closing.State = stateClosing
		b.must(b.AddFlow(b.Established, closing))
		first, second := b.sets(n, syn)
		for _, other := range b.neighbours(n, syn, first, ways, n) {
			b.must(b.AddFlow(b.HalfOpen, b.flow(other, syn, b.replication, 0)))
		}
		handshake := b.answered(n, b.replication, 0)
		b.must(b.AddFlow(b.HalfOpen, handshake))
		var set bpf.DatapathFlowSet
		b.must(b.HalfOpen.Lookup(first, &set))
		for _, f := range set.Flow {
			if f.Tuple == handshake.Tuple {
				t.Fatalf("the handshake is in set %d, not in set %d", first, second)
			}
		}
		b.arrives(n, finalAck, establishes(handshake, finalAck))
	})
}

// TestWayTaken: a way that another CPU takes meanwhile is its, and a flow that it enters is not entered twice. That
// no place was found, not at the second attempt either, is counted once.
func TestWayTaken(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m, other := udp{}, newcomer(n)
		wanted, _ := rig.FreeWay([ways]uint64{}, b.Seeds.Digest(n.tuple(m)))
		for _, c := range []struct {
			name  string
			way   int
			taker network
		}{
			{"by another flow", int(wanted), other},
			{"for the same flow", (int(wanted) + 1) % ways, n},
		} {
			b.sub(c.name, func(t *testing.T) {
				b.put()
				b.beginWrite(c.way, b.flow(c.taker, m, b.backup, 0))
				b.arrives(n, m, unread(eventInsertFailedConnectionless))
				if entries := b.entries(n, m); entries > 1 {
					t.Errorf("the flow is %d times in the table", entries)
				}
			})
		}
	})
}
