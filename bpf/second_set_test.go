// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// sets are those that a message's tuple belongs to where each table has many.
func (b *bed) sets(n network, m message) (first, second uint32) {
	return bpf.Sets(b.Seeds.Digest(n.tuple(m)), b.Established.MaxEntries())
}

// eachManySets runs a test for both families on tables of several sets, for a tuple of the
// message whose two sets differ.
func eachManySets(t *testing.T, m message, f func(*testing.T, *bed, network)) {
	t.Helper()
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, manySets)
			for _, n := range crowd(n, 1000) {
				if first, second := b.sets(n, m); first != second {
					f(t, b, n)
					return
				}
			}
			t.Fatal("every tuple has the same set twice")
		})
	}
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
	b.must(b.ConnectionlessTags.Put(index, bpf.Tags(set.Digest)))
}

// TestSecondSetEviction: where both sets of a tuple are full, it is the one of them that makes
// room more readily, whichever that is.
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
						age := uint32(10)
						if i == oldest && (set == second) == inSecond {
							age = 20
						}
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
					events: events{
						bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS: 1,
						bpf.DatapathEventEVENT_EVICTED_CONNECTIONLESS:  1,
					},
					tables: func(t tables) {
						delete(t.Connectionless, gone.Tuple)
						t.Connectionless[born.Tuple] = born
						t.Marks[b.Seeds.Digest(gone.Tuple)] = true
					},
				})
			})
		})
	}
}

// TestSecondSetHandshake: the handshake of the next connection with the tuple of one that is
// closing is found in its second set as well.
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
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), establishes(handshake, finalAck))
	})
}
