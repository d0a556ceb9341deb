// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// Sequence numbers of the handshake under test.
const (
	peerISN = 5000
	ourISN  = 70000
)

var (
	syn      = tcp{flags: "S", seq: peerISN}
	synAck   = tcp{flags: "SA", seq: ourISN, ack: peerISN + 1}
	finalAck = tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 1}
)

// answered is a half-open flow whose SYN-ACK has been sent.
func (b *bed) answered(n network, via nic, age uint32) bpf.DatapathFlow {
	f := b.flow(n, syn, via, age)
	f.State = stateReplied
	f.SndUna, f.SndNxt = ourISN, ourISN+1
	return f
}

func halfOpen(f bpf.DatapathFlow) func(tables) {
	return func(t tables) { t.HalfOpen[f.Tuple] = f }
}

// establishes is the effect of the ACK that turns this half-open flow, with what is to become of it, into a
// connection without a local socket.
func establishes(f bpf.DatapathFlow, ack tcp) effect {
	f.Seen = justNow
	f.Flags = f.Flags&^flagActive | flagNoSocket
	f.SndUna, f.RcvNxt = ack.ack, ack.end()
	f.State &^= stateReplied | stateClosing
	return effect{
		events: once(bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED),
		tables: func(t tables) {
			delete(t.HalfOpen, f.Tuple)
			t.Established[f.Tuple] = f
		},
	}
}

// strays is the effect of a packet that is of no flow, and that the kernel itself may answer.
func (b *bed) strays(n network, m message, via nic) effect {
	stray := b.born(n, m, via)
	stray.Flags = stray.Flags&^flagNoSocket | flagStray
	return effect{events: events{}, tables: halfOpen(stray)}
}

func (b *bed) stray(n network, m message, via nic, age uint32) bpf.DatapathFlow {
	f := b.flow(n, m, via, age)
	f.Flags |= flagStray
	return f
}

// marked enters that the message's tuple was asked about.
func marked(b *bed, n network, m message) func(tables) {
	return func(t tables) { t.Marks[b.Seeds.Digest(n.tuple(m))] = true }
}

// refuses sends what no answer to starts a flow: that is remembered, but of echoes and of segments that open nothing.
func (b *bed) refuses(n network, m message) {
	b.t.Helper()
	want := effect{tables: marked(b, n, m)}
	if _, ok := m.(echo); ok {
		want = nothing
	} else if segment, ok := m.(tcp); ok && segment.flags != "S" {
		want = nothing
	}
	b.leaves(n, m, want)
}

var handshakeFamily = map[string]story{
	"from the first packet to the last": func(t *testing.T, b *bed, n network) {
		b.arrives(n, syn, b.starts(n, syn, b.replication))
		before, err := b.Tables()
		b.must(err)
		flow := before.HalfOpen[n.tuple(syn)]
		flow.State, flow.SndUna, flow.SndNxt = stateReplied|stateAsymmetric, ourISN, ourISN+1
		flow.Attempt, flow.Sent = attemptSent|attemptChoice, toldNow
		b.wantMoved(n, synAck, halfOpen(flow))
		before, err = b.Tables()
		b.must(err)
		done := establishes(before.HalfOpen[n.tuple(syn)], finalAck)
		done.events[bpf.DatapathEventEVENT_LEARNT_RULE] = 1
		b.arrives(n, finalAck, done)
	},
	"a client may try again from the same port": func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, tcp{}, b.replication, 0)
		b.put(halfOpen(flow))
		b.exec(egress(b.replication, n.out(b.replication, tcp{flags: "RA", seq: 0, ack: peerISN + 1})))
		b.exec(ingress(b.replication, n.in(b.replication, syn)))
		b.exec(egress(b.replication, n.out(b.replication, synAck)))
		b.exec(ingress(b.replication, n.in(b.replication, finalAck)))
		after, _ := b.snapshot()
		if f, ok := after.Established[n.tuple(syn)]; !ok || f.State&stateClosing != 0 {
			t.Errorf("established flow %+v, found %v", f, ok)
		}
	},
	"SYNACK noted": func(t *testing.T, b *bed, n network) {
		for _, test := range []struct {
			name     string
			state    uint8
			isn, nxt uint32 // of the entry before
			segment  tcp
			wantISN  uint32
			wantNxt  uint32
		}{
			{"first", 0, 0, 0, tcp{flags: "SA", seq: ourISN}, ourISN, ourISN + 1},
			{"sequence number 0", 0, 0, 0, tcp{flags: "SA", seq: 0}, 0, 1},
			{"about to wrap", 0, 0, 0, tcp{flags: "SA", seq: 1<<32 - 1}, 1<<32 - 1, 0},
			{"with data", 0, 0, 0, tcp{flags: "SA", seq: ourISN, payload: 8}, ourISN, ourISN + 9},
			{"again", stateReplied, ourISN, ourISN + 100, tcp{flags: "SA", seq: ourISN}, ourISN, ourISN + 100},
			{"of another handshake", stateReplied, ourISN, ourISN + 100, tcp{flags: "SA", seq: 7}, 7, 8},
			{"data before the ACK", stateReplied, ourISN, ourISN + 1, tcp{flags: "PA", seq: ourISN + 1, payload: 10}, ourISN, ourISN + 11},
			{"more data", stateReplied, ourISN, ourISN + 11, tcp{flags: "PA", seq: ourISN + 11, payload: 10}, ourISN, ourISN + 21},
			{"data again", stateReplied, ourISN, ourISN + 21, tcp{flags: "PA", seq: ourISN + 1, payload: 10}, ourISN, ourISN + 21},
			{"data over the wrap", stateReplied, 1<<32 - 6, 1<<32 - 5, tcp{flags: "PA", seq: 1<<32 - 5, payload: 10}, 1<<32 - 6, 5},
			{"data after the wrap", stateReplied, 1<<32 - 6, 5, tcp{flags: "PA", seq: 5, payload: 10}, 1<<32 - 6, 15},
			{"old data after the wrap", stateReplied, 1<<32 - 6, 5, tcp{flags: "PA", seq: 1<<32 - 5, payload: 3}, 1<<32 - 6, 5},
		} {
			t.Run(test.name, func(t *testing.T) {
				b := newBed(t, normal)
				flow := b.flow(n, tcp{}, b.replication, 1)
				flow.State, flow.SndUna, flow.SndNxt = test.state, test.isn, test.nxt
				b.put(halfOpen(flow))
				flow.State, flow.SndUna, flow.SndNxt = stateReplied, test.wantISN, test.wantNxt
				if test.segment.flags == "SA" {
					flow.Attempt, flow.Sent = attemptSent, toldNow
				}
				b.run(egress(b.replication, n.out(b.replication, test.segment)), effect{tables: halfOpen(flow)})
			})
		}
	},
	// As of a director whose servers answer themselves (LVS), and of a SYN-ACK that leaves by what has no programs.
	"what follows a SYN whose answer is not seen is asked about once": func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, syn, b.replication, 0)
		b.put(halfOpen(flow))
		b.arrives(n, finalAck, unread(eventIgnoredNoSocket).and(marked(b, n, syn)))
		for range 3 {
			b.arrives(n, finalAck, nothing)
		}
		b.exec(egress(b.replication, n.out(b.replication, synAck)))
		before, err := b.Tables()
		b.must(err)
		b.arrives(n, finalAck, establishes(before.HalfOpen[n.tuple(syn)], finalAck))
	},
	"an ACK of what was answered is looked at though a mark says that there is no flow": func(t *testing.T, b *bed, n network) {
		flow := b.answered(n, b.replication, 0)
		b.put(halfOpen(flow), marked(b, n, syn))
		late := tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 2}
		b.arrives(n, late, unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE))
		b.arrives(n, finalAck, establishes(flow, finalAck))
	},
	// Then its RST takes the other way.
	"a segment of a marked tuple comes another way, or later": func(t *testing.T, b *bed, n network) {
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
		b.run(in(b.backup), effect{events: once(eventIgnoredNoSocket), tables: halfOpen(flow)})
		b.put(marked(b, n, tcp{})) // the stray made room for a handshake
		b.run(in(b.backup), nothing)
	},
}

func TestHandshakeFamily(t *testing.T) { tell(t, eachFamily, handshakeFamily) }
