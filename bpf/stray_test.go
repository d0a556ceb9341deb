// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// strays is the effect of a packet that is of no flow, and that the kernel itself
// may answer.
func (b *bed) strays(n network, m message, via nic) effect {
	b.t.Helper()
	stray := b.born(n, m, via)
	stray.Flags = stray.Flags&^flagNoSocket | flagStray
	return effect{events: events{}, tables: halfOpen(stray)}
}

// stray is such an entry.
func (b *bed) stray(n network, m message, via nic, age uint32) bpf.DatapathFlow {
	b.t.Helper()
	f := b.flow(n, m, via, age)
	f.Flags |= flagStray
	return f
}

// TestStrayReset: the RST that answers a segment without a socket, after a reboot,
// goes back by the way that the segment came. Nothing else uses the entry.
func TestStrayReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(halfOpen(b.stray(n, tcp{}, b.replication, 0)))
		for _, flags := range []string{"A", "PA", "FA", "SA", ""} {
			b.run(egress(b.production, n.out(b.production, tcp{flags: flags, seq: ourISN})), nothing)
		}
		for _, m := range []tcp{{flags: "R", seq: 4711}, {flags: "RA"}} {
			b.put(halfOpen(b.stray(n, tcp{}, b.replication, 0)))
			frame := n.out(b.production, m)
			b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
		}
	})
}

// TestStrayIsNoHandshake: whatever a SYN-ACK or an ACK says.
func TestStrayIsNoHandshake(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.keepPeriod() // which may wait until the stray were due for a new look
		b.put(halfOpen(b.stray(n, tcp{}, b.replication, 0)))
		b.run(egress(b.production, n.out(b.production, synAck)), nothing)
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), effect{
			events: once(bpf.DatapathEventEVENT_IGNORED_NO_SOCKET),
			tables: func(t tables) { t.Marks[b.Seeds.Digest(n.tuple(tcp{}))] = true },
		})
	})
}

// TestStrayOpens: a SYN begins a handshake in the place of the stray.
func TestStrayOpens(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		old := b.stray(n, tcp{}, b.backup, 3)
		old.State, old.Corrected = stateAsymmetric, 4
		b.put(halfOpen(old))
		b.run(ingress(b.replication, n.in(b.replication, syn)), b.starts(n, syn, b.replication))
	})
}

// TestStraySegmentAgain: while its tuple is marked, a segment without a socket is asked
// about only when it comes another way, which its RST then takes, or a second later.
func TestStraySegmentAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		in := func(via nic) run { return ingress(via, n.in(via, tcp{flags: "A"})) }
		b.run(in(b.replication), b.meetsStranger(n, b.replication))
		b.run(in(b.backup), b.meetsStranger(n, b.backup))
		b.inOneTick(in(b.backup), func() effect {
			b.put(marked(b, n, tcp{}), halfOpen(b.stray(n, tcp{}, b.backup, 0)))
			return nothing
		})
		flow := b.stray(n, tcp{}, b.backup, 2)
		b.put(marked(b, n, tcp{}), halfOpen(flow))
		flow.Seen = justNow
		b.run(in(b.backup), effect{
			events: once(bpf.DatapathEventEVENT_IGNORED_NO_SOCKET),
			tables: halfOpen(flow),
		})
		b.put(marked(b, n, tcp{})) // the stray made room for a handshake
		b.run(in(b.backup), nothing)
	})
}

// marked enters that the message's tuple was asked about.
func marked(b *bed, n network, m message) func(tables) {
	return func(t tables) { t.Marks[b.Seeds.Digest(n.tuple(m))] = true }
}

// TestStrayLeavesHandshake: a segment that is forged for the tuple of a handshake
// does not spoil it.
func TestStrayLeavesHandshake(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(halfOpen(b.answered(n, b.replication, 3)))
		b.run(ingress(b.backup, n.in(b.backup, tcp{flags: "A", ack: 1})), unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE))
	})
}

// TestStrayAmongHandshakes: a stray takes the place of another, or none.
func TestStrayAmongHandshakes(t *testing.T) {
	const ways = int(bpf.DatapathWaysWAYS)
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		crowd := make([]func(tables), ways)
		for i := range crowd {
			m := tcp{ports: ports{peer: uint16(1000 + i)}}
			crowd[i] = halfOpen(b.flow(n, m, b.replication, 10))
		}
		b.put(crowd...)
		b.keepPeriod()
		refused := effect{
			events: once(bpf.DatapathEventEVENT_IGNORED_NO_SOCKET),
			tables: func(t tables) { t.Marks[b.Seeds.Digest(n.tuple(tcp{}))] = true },
		}
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), refused)

		other := tcp{ports: ports{peer: 1003}}
		b.put(append(crowd[:3:3], append(crowd[4:], halfOpen(b.stray(n, other, b.replication, 1)))...)...)
		want := b.meetsStranger(n, b.replication)
		enter := want.tables
		want.tables = func(t tables) {
			enter(t)
			delete(t.HalfOpen, n.tuple(other))
		}
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), want)
	})
}
