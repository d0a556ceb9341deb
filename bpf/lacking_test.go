// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// eachLacking runs a test for both families where lookups in some maps fail.
func eachLacking(t *testing.T, v variant, f func(*testing.T, *bed, network)) {
	t.Helper()
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) { f(t, newBed(t, v), n) })
	}
}

// wantElsewhere makes sure that the sets of a message's tuple are none of the first.
func (b *bed) wantElsewhere(n network, m message) {
	b.t.Helper()
	if first, second := bpf.Sets(b.Seeds.Digest(n.tuple(m)), 100); first == 0 || second == 0 {
		b.t.Fatalf("%T of %s belongs to the first set: other seeds are needed", m, n.name)
	}
}

// startsNothing is the effect of a packet that could not be entered. That the answer to a
// datagram is no beginning is known all the same.
func (b *bed) startsNothing(n network, m message) effect {
	if _, connection := m.(tcp); connection {
		return unread(bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN)
	}
	b.keepPeriod()
	want := unread(bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS)
	want.tables = marked(b, n, m)
	return want
}

// meetsForgotten is the effect of a segment of nobody's, of which nothing can be kept.
func (b *bed) meetsForgotten(n network, marked bool) effect {
	b.t.Helper()
	b.keepPeriod()
	want := unread(bpf.DatapathEventEVENT_IGNORED_NO_SOCKET)
	if marked {
		want.tables = func(t tables) { t.Marks[b.Seeds.Digest(n.tuple(tcp{}))] = true }
	}
	return want
}

// TestWithoutFlowTables: where a set is not found, or cannot be locked, nothing is
// recorded, which is counted, and every packet passes.
func TestWithoutFlowTables(t *testing.T) {
	for name, v := range map[string]variant{"sets": withoutTables, "tags": withoutTags, "locks": withoutLocks} {
		t.Run(name, func(t *testing.T) {
			eachLacking(t, v, func(t *testing.T, b *bed, n network) {
				for _, m := range starters {
					b.wantElsewhere(n, m.message)
					b.run(ingress(b.replication, n.in(b.replication, m.message)), b.startsNothing(n, m.message))
				}
				b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), b.meetsForgotten(n, true))
				for _, m := range repliers {
					b.run(egress(b.production, n.out(b.production, m.message)), nothing)
				}
				b.run(egress(b.production, n.out(b.production, synAck)), nothing)
			})
		})
	}
}

// TestWithoutFlowTablesHostOpens: the host's own connection is opened all the same. That
// it opened it was not noted, and no socket of these tests says so.
func TestWithoutFlowTablesHostOpens(t *testing.T) {
	for name, v := range map[string]variant{"sets": withoutTables, "locks": withoutLocks} {
		t.Run(name, func(t *testing.T) {
			eachLacking(t, v, func(t *testing.T, b *bed, n network) {
				b.wantElsewhere(n, syn)
				b.run(egress(b.production, n.out(b.production, syn)), nothing)
				b.keepPeriod()
				want := unread(bpf.DatapathEventEVENT_IGNORED_NO_SOCKET)
				want.tables = marked(b, n, tcp{})
				b.run(ingress(b.production, n.in(b.production, synAck)), want)
			})
		})
	}
}

// TestWithoutLocksAnswers: what is known needs no lock.
func TestWithoutLocksAnswers(t *testing.T) {
	eachLacking(t, withoutLocks, func(t *testing.T, b *bed, n network) {
		for _, m := range repliers {
			table := b.Connectionless
			if _, connection := m.message.(tcp); connection {
				table = b.Established
			}
			b.must(b.AddFlow(table, b.flow(n, m.message, b.replication, 0)))
			frame := n.out(b.production, m.message)
			b.run(egress(b.production, frame), b.moves(n, m.message, b.production, b.replication, frame))
		}
	})
}

// TestWithoutPlaces: marks, what is foreign, fragments and counters of pairs find no
// place. That costs what they are for, and nothing else.
func TestWithoutPlaces(t *testing.T) {
	eachLacking(t, withoutPlaces, func(t *testing.T, b *bed, n network) {
		notOwn := ingress(b.replication, n.at(n.stranger).in(b.replication, udp{}))
		for range 2 { // it is asked about every time
			b.run(notOwn, unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		}
		b.run(egress(b.production, n.out(b.production, udp{}, source(n.stranger))), nothing)

		stray := b.strays(n, tcp{}, b.replication)
		stray.events[bpf.DatapathEventEVENT_IGNORED_NO_SOCKET] = 1
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), stray)

		b.run(ingress(b.replication, n.in(b.replication, udp{})), b.admits(n, udp{}, b.replication))
		known, _ := b.snapshot()
		flow := known.Connectionless[n.tuple(udp{})]
		flow.State = stateAnswered | stateAsymmetric
		frames := n.inPieces(b.production, 1)
		want := b.moves(n, udp{}, b.production, b.replication, frames.first)
		want.pairs, want.tables = nil, connectionlessFlow(flow)
		b.run(egress(b.production, frames.first), want)
		b.run(egress(b.production, frames.later), unread(notFirst))
	})
}

// TestWithoutEvents: what happens cannot be counted, and happens all the same.
func TestWithoutEvents(t *testing.T) {
	eachLacking(t, withoutEvents, func(t *testing.T, b *bed, n network) {
		for _, m := range starters {
			want := b.starts(n, m.message, b.replication)
			want.events = nil
			b.run(ingress(b.replication, n.in(b.replication, m.message)), want)
		}
		spoken := udp{ports: ports{peer: peerPort + 1}}
		want := b.notes(n, spoken)
		want.events = nil
		b.run(egress(b.production, n.out(b.production, spoken)), want)
		b.run(ingress(b.production, n.in(b.production, spoken)), nothing)
		b.run(ingress(b.replication, n.at(n.stranger).in(b.replication, udp{})), nothing)
		b.run(egress(b.production, n.inPieces(b.production, 1).later), nothing)
	})
}

// TestWithoutSender: without the program that ends a move, a helper writes the MACs.
func TestWithoutSender(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.Sender.Delete(uint32(0)))
		defer func() { b.must(b.Sender.Put(uint32(0), b.ReplypathSend)) }()
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
	})
}

// TestInterfaceOutOfRange: an index that no interface can have is no interface.
func TestInterfaceOutOfRange(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		gone := b.replication
		gone.interfaceIndex = uint16(b.Interfaces.MaxEntries())
		flow := b.flow(n, m, b.replication, 0)
		flow.Interface = gone.interfaceIndex
		b.put(flowOf(m, flow))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.stays(n, m, b.production, gone, frame, bpf.DatapathOutcomeOUTCOME_LINK_DOWN))
	})
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.Managed.Put(b.replication.Index, b.Interfaces.MaxEntries()))
		b.run(ingress(b.replication, n.in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_INTERFACE))
	})
}

// TestGatewayOutOfRange: an index that no gateway can have is no gateway.
func TestGatewayOutOfRange(t *testing.T) {
	for mode, want := range map[bpf.DatapathNextHopMode]func(*bed, network, []byte) effect{
		auto: func(b *bed, n network, frame []byte) effect {
			e := b.moves(n, udp{}, b.production, b.replication, frame)
			e.frame = readdressed(frame, neighbour, b.replication.MAC) // where the question came from
			return e
		},
		gatewayOnly: func(b *bed, n network, frame []byte) effect {
			return b.stays(n, udp{}, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP)
		},
	} {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) {
				r.NextHop, r.Gateway4, r.Gateway6 = uint8(mode), 0, 0
			})
			flow := b.flow(n, udp{}, b.replication, 0)
			flow.Gateway, flow.Mac = uint16(b.Gateways.MaxEntries()), [6]uint8(neighbour)
			b.put(connectionlessFlow(flow))
			frame := n.out(b.production, udp{})
			b.run(egress(b.production, frame), want(b, n, frame))
		})
	}
}

// TestWithoutSettings: before the loader has said anything, nothing is noted, and
// what is known is answered.
func TestWithoutSettings(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetSettings(bpf.DatapathSettings{}))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
		b.must(b.SetTables(newTables()))
		b.run(egress(b.production, frame), nothing)
	})
}

// TestWithoutOwnAddresses: an interface without addresses has no flows but those that are
// known.
func TestWithoutOwnAddresses(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		for _, address := range []bpf.DatapathAddress{{Bytes: n.self.As16()}, {Bytes: n.other.As16()}} {
			b.must(b.OwnAddresses.Delete(address))
		}
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
		b.must(b.SetTables(newTables()))
		b.run(ingress(b.production, n.in(b.production, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		b.run(egress(b.production, frame), nothing)
	})
}
