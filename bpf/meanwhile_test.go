// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// What a program finds while another CPU writes: states that last for a moment.

// beginWrite leaves a set as it is while another CPU enters this flow: the digest is there,
// its tag is not yet.
func (b *bed) beginWrite(way int, f bpf.DatapathFlow) {
	b.t.Helper()
	var set bpf.DatapathFlowSet
	set.Digest[way], set.Flow[way] = b.Seeds.Digest(f.Tuple), f
	b.must(b.Connectionless.Put(uint32(0), set))
	b.must(b.ConnectionlessTags.Put(uint32(0), uint64(0)))
}

// TestWayTaken: a way that another CPU takes meanwhile is its, and a flow that it enters is not
// entered twice. That no place was found, not at the second attempt either, is counted once.
func TestWayTaken(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m, other := udp{}, newcomer(n)
		wanted, _ := bpf.FreeWay([ways]uint64{}, b.Seeds.Digest(n.tuple(m)))
		for _, c := range []struct {
			name  string
			way   int
			taker network
		}{
			{"by another flow", int(wanted), other},
			{"for the same flow", (int(wanted) + 1) % ways, n},
		} {
			t.Run(c.name, func(t *testing.T) {
				b.t = t
				b.put()
				b.beginWrite(c.way, b.flow(c.taker, m, b.backup, 0))
				b.keepPeriod()
				want := unread(bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS)
				want.tables = marked(b, n, m)
				b.run(ingress(b.replication, n.in(b.replication, m)), want)
				if entries := b.entries(n, m); entries > 1 {
					t.Errorf("the flow is %d times in the table", entries)
				}
			})
		}
	})
}

// entries counts those with the message's digest in the first set.
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

// TestAskedMeanwhile: what stands beside an asker may be of the next one already. That another
// socket of the peer's asked is no alternation.
func TestAskedMeanwhile(t *testing.T) {
	eachRepair(t, bpf.DatapathSourceRepairREPAIR_ON, func(t *testing.T, b *bed, n network) {
		second := udp{ports: ports{peer: peerPort + 1}}
		b.question(n, udp{})
		var set bpf.DatapathAskedSet
		b.must(b.Asked.Lookup(uint32(0), &set))
		b.question(n, second)
		for way, asker := range set.Asker {
			if asker != 0 {
				set.Flow[way] = b.Seeds.Digest(n.tuple(second))
			}
		}
		b.must(b.Asked.Put(uint32(0), set))
		b.question(n.at(n.other), udp{})
		content, _ := b.snapshot()
		for tuple, f := range content.Connectionless {
			if f.Flags&flagAlternates != 0 {
				t.Errorf("flags %#x of %+v", f.Flags, tuple)
			}
		}
		b.wantAsked(n.at(n.other).tuple(udp{}))
	})
}

// TestAskedBeforeIdle: a flow that is over, or gone, is none that a socket alternates with.
func TestAskedBeforeIdle(t *testing.T) {
	for name, end := range map[string]func(*bed, network){
		"idle": func(b *bed, n network) {
			b.forget(n, udp{}, bpf.DatapathTableTABLE_CONNECTIONLESS)
			b.must(b.AddFlow(b.Connectionless, b.flow(n, udp{}, b.replication,
				uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)+1)))
		},
		"gone": func(b *bed, n network) { b.forget(n, udp{}, bpf.DatapathTableTABLE_CONNECTIONLESS) },
	} {
		t.Run(name, func(t *testing.T) {
			eachRepair(t, bpf.DatapathSourceRepairREPAIR_ON, func(t *testing.T, b *bed, n network) {
				b.question(n, udp{})
				end(b, n)
				b.question(n.at(n.other), udp{})
				if flags := b.flags(n.at(n.other)); flags&flagAlternates != 0 {
					t.Errorf("flags %#x", flags)
				}
				b.wantAsked(n.at(n.other).tuple(udp{}))
			})
		})
	}
}

// TestFragmentMeanwhile: what is known of a fragment's packet may be of the next one already,
// which has another peer, or asked another address.
func TestFragmentMeanwhile(t *testing.T) {
	m := udp{}
	for name, other := range map[string]func(network) network{
		"another peer":    newcomer,
		"another address": func(n network) network { return n.at(n.other) },
	} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				frames, next := n.inPieces(b.production, 1), other(n)
				b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)), connectionlessFlow(b.flow(next, m, b.backup, 0)))
				b.exec(egress(b.production, frames.first))
				b.rewriteFragments(b.Seeds.Digest(next.tuple(m)))
				b.run(egress(b.production, frames.later), unread(notFirst))
			})
		})
	}
}

// rewriteFragments has all that is known of fragments be about this flow.
func (b *bed) rewriteFragments(digest uint64) {
	b.t.Helper()
	var key uint32
	var set bpf.DatapathFragmentSet
	changed := 0
	for entries := b.Fragments.Iterate(); entries.Next(&key, &set); {
		for way := range set.Fragment {
			if set.Fragment[way].Key != 0 {
				set.Fragment[way].Digest = digest
				b.must(b.Fragments.Put(key, set))
				changed++
			}
		}
	}
	if changed != 1 {
		b.t.Fatalf("%d packets come in fragments, want 1", changed)
	}
}

// TestEnteredMeanwhile: two CPUs may find no flow for the same tuple. The one that comes second
// leaves the first one's entry alone, unless that is over.
func TestEnteredMeanwhile(t *testing.T) {
	m := udp{}
	for name, c := range map[string]struct {
		age      uint32
		replaced bool
	}{
		"live": {0, false},
		"idle": {uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS) + 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range networks {
				t.Run(n.name, func(t *testing.T) {
					b := newBed(t, interrupted)
					first := b.flow(n, m, b.backup, c.age)
					var set bpf.DatapathFlowSet
					set.Digest[5], set.Flow[5] = b.Seeds.Digest(first.Tuple), first
					b.must(b.Meanwhile(set))
					b.keepPeriod()
					want := b.admits(n, m, b.replication)
					if !c.replaced {
						want = unread(bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS)
						want.tables = func(t tables) {
							marked(b, n, m)(t)
							t.Connectionless[first.Tuple] = first
						}
					}
					b.run(ingress(b.replication, n.in(b.replication, m)), want)
				})
			}
		})
	}
}

// TestReplacedMeanwhile: the place of a handshake may be another one's by the time that its SYN,
// which is sent again, comes to be noted there. That one keeps its way, and the other is counted
// with the handshakes that found no place.
func TestReplacedMeanwhile(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, interruptedHandshake)
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
			want := unread(bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN)
			want.tables = func(t tables) {
				clear(t.HalfOpen)
				t.HalfOpen[other.Tuple] = other
			}
			b.run(ingress(b.replication, n.in(b.replication, syn)), want)
		})
	}
}
