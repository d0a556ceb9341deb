// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"strings"
	"testing"

	"replypath/bpf"
)

// meetsStranger is the effect of a segment without an entry and without a socket.
func (b *bed) meetsStranger(n network, via nic) effect {
	b.t.Helper()
	b.keepPeriod()
	e := b.strays(n, tcp{}, via)
	e.events[bpf.DatapathEventEVENT_IGNORED_NO_SOCKET] = 1
	enter := e.tables
	e.tables = func(t tables) {
		enter(t)
		t.Marks[b.Seeds.Digest(n.tuple(tcp{}))] = true
	}
	return e
}

// keepPeriod makes sure that marks stay valid for the next seconds: they end with
// a period of 1024 ticks. Where it did so within the last second it does not wait again, as
// a mark from before would be of another period then.
func (b *bed) keepPeriod() {
	b.t.Helper()
	for {
		now, err := b.Now()
		b.must(err)
		if b.kept != 0 && now-b.kept < b.Seconds(1) {
			return
		}
		if now%1024+b.Seconds(3) < 1024 {
			b.kept = now
			return
		}
	}
}

// adopts is the effect of a segment whose socket says that the peer opened its
// connection.
func (b *bed) adopts(n network, via nic) effect {
	return effect{
		events: events{
			bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED:   1,
			bpf.DatapathEventEVENT_READMITTED_ESTABLISHED: 1,
		},
		tables: establishedFlow(b.born(n, tcp{}, via)),
	}
}

// TestStranger: a segment that nobody here knows anything of is asked about once.
func TestStranger(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), b.meetsStranger(n, b.replication))
		for _, flags := range []string{"A", "PA", "FA", "RA", "R", "P", ""} {
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: flags})), nothing)
			if !strings.Contains(flags, "R") {
				b.run(egress(b.production, n.out(b.production, tcp{flags: flags})), nothing)
			}
		}
		b.run(egress(b.production, n.out(b.production, synAck)), nothing)
	})
}

// TestStrangerReset: a RST does not even do that.
func TestStrangerReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, flags := range []string{"R", "RA"} {
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: flags})), nothing)
		}
	})
}

// TestStrangerIgnored: what may not start a flow is a stranger; why is counted once. The tuple is
// not marked, as the address may come.
func TestStrangerIgnored(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		forwarded := n
		forwarded.self = n.stranger
		r := ingress(b.replication, forwarded.in(b.replication, tcp{flags: "A"}))
		b.keepPeriod()
		b.run(r, unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		b.run(r, nothing)
	})
}

// TestStrangerForgotten: of two strangers with one place, the last is remembered.
func TestStrangerForgotten(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		digest := b.Seeds.Digest(n.tuple(tcp{}))
		place := uint32(digest >> 1 % uint64(b.DatapathMaps.Marks.MaxEntries()))
		other := digest ^ 1<<63
		b.keepPeriod()
		mark, err := b.Mark(other)
		b.must(err)
		b.must(b.DatapathMaps.Marks.Put(place, mark))
		want := b.meetsStranger(n, b.replication)
		remember := want.tables
		want.tables = func(t tables) {
			remember(t)
			delete(t.Marks, other)
		}
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), want)
	})
}

// TestStrangerOpens: a SYN that the host answers is the beginning of something
// new, whatever was known of the tuple. A SYN alone may be forged.
func TestStrangerOpens(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.exec(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})))
		b.put(b.sent(n, tcp{}, 0))
		b.must(b.markTuple(n, tcp{}))
		b.run(ingress(b.replication, n.in(b.replication, syn)), b.starts(n, syn, b.replication))
		b.exec(egress(b.production, n.out(b.production, synAck)))
		content, _ := b.snapshot()
		if len(content.Marks) != 0 || len(content.Outbound) != 0 {
			t.Errorf("still known of the tuple: marks %v, notes %v", content.Marks, content.Outbound)
		}
	})
}

// TestAnswerKeepsNote: while answers come in, it stays known that the host asked.
func TestAnswerKeepsNote(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		r := ingress(b.production, n.in(b.production, tcp{flags: "A"}))
		b.put(b.sent(n, tcp{}, 100))
		b.run(r, effect{tables: func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(tcp{}))] = justNow }})
		b.inOneTick(r, func() effect {
			b.put(b.sent(n, tcp{}, 0))
			return nothing
		})
	})
}

// TestAdopt: a connection that is older than the datapath, or whose entry was
// pushed out, is recorded with its next segment.
func TestAdopt(t *testing.T) {
	eachFamily(t, func(t *testing.T, _ *bed, n network) {
		n = newcomer(n)
		c := accept(t, n)
		genuine := tcp{flags: "A", seq: c.received, ack: c.acked}
		for _, test := range []struct {
			name    string
			segment tcp
			put     func(*bed) func(tables)
			adopted bool
		}{
			{"genuine", genuine, nil, true},
			{"end of the connection", tcp{flags: "FA", seq: c.received, ack: c.acked}, nil, true},
			{"idle entry", genuine, func(b *bed) func(tables) {
				f := b.flow(n, tcp{}, b.backup, uint32(bpf.DatapathIdleSecondsIDLE_ESTABLISHED)+1)
				f.State, f.Corrected = stateAsymmetric|stateCorrected, 4
				return establishedFlow(f)
			}, true},
			{"outdated note", genuine, func(b *bed) func(tables) {
				return b.sent(n, tcp{}, uint32(bpf.DatapathIdleSecondsIDLE_OUTBOUND)+1)
			}, true},

			{"idle handshake", genuine, func(b *bed) func(tables) {
				return halfOpen(b.answered(n, b.backup, uint32(bpf.DatapathIdleSecondsIDLE_HALF_OPEN)+1))
			}, true},
			{"wrong acknowledgement", tcp{flags: "A", seq: c.received, ack: c.acked + 1}, nil, false},
			{"wrong sequence number", tcp{flags: "A", seq: c.received + 1<<20, ack: c.acked}, nil, false},
			{"no acknowledgement", tcp{flags: "P", seq: c.received}, nil, false},
		} {
			t.Run(test.name, func(t *testing.T) {
				b := newBed(t, normal)
				if test.put != nil {
					b.put(test.put(b))
				}
				want := b.adopts(n, b.replication)
				if !test.adopted {
					want = unread(bpf.DatapathEventEVENT_IGNORED_SEGMENT)
				}
				b.run(ingress(b.replication, n.in(b.replication, test.segment)), want)
			})
		}
	})
}

// TestAdoptAfterForgedSYN: a SYN with the tuple of the connection, which cost
// nothing to forge, does not keep it out.
func TestAdoptAfterForgedSYN(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		c := accept(t, n)
		b.put(halfOpen(b.flow(n, syn, b.backup, 0)))
		want := b.adopts(n, b.replication)
		want.events[bpf.DatapathEventEVENT_IGNORED_HANDSHAKE] = 1
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A", seq: c.received, ack: c.acked})), want)
	})
}

// TestAdoptHostOpened: the socket says that the host opened the connection.
func TestAdoptHostOpened(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		state := connection{received: 1000, acked: 2000, window: 4096}
		socket := connectTCP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort), state)
		defer closeSocket(t, socket)
		r := ingress(b.production, n.in(b.production, tcp{flags: "A", seq: 1000, ack: 2000}))
		b.run(r, b.notes(n, tcp{}))
		b.run(r, nothing)

		b.put(b.sent(n, tcp{}, uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)+1))
		want := b.notes(n, tcp{})
		want.events = nil // the note is there
		b.run(r, want)
	})
}

// meetsListener is the effect of a segment that only a listening socket is there
// for: a RST will answer it.
func (b *bed) meetsListener(n network, via nic) effect {
	b.t.Helper()
	e := b.strays(n, tcp{}, via)
	e.events[bpf.DatapathEventEVENT_IGNORED_SEGMENT] = 1
	return e
}

// TestAdoptListener: a listening socket says nothing of a connection, and one may
// be about to come of it.
func TestAdoptListener(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		socket := listenTCP(t, netip.AddrPortFrom(n.self, selfPort))
		defer closeSocket(t, socket)
		for _, ack := range []uint32{0, 1} {
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A", ack: ack})),
				b.meetsListener(n, b.replication))
			b.must(b.SetTables(newTables()))
		}
	})
}

// TestAdoptInHandshake: as long as a handshake is under way, its ACK decides.
func TestAdoptInHandshake(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(halfOpen(b.answered(n, b.replication, 0)))
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A", ack: 1})),
			unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE))
	})
}

// TestAdoptUnmanagedInterface: nothing is recorded of an interface that is not ours.
func TestAdoptUnmanagedInterface(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		c := accept(t, n)
		b.unmanage(b.replication)
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A", seq: c.received, ack: c.acked})),
			unread(bpf.DatapathEventEVENT_IGNORED_INTERFACE))
	})
}

// markTuple marks a tuple as the programs would.
func (b *bed) markTuple(n network, m message) error {
	b.keepPeriod()
	digest := b.Seeds.Digest(n.tuple(m))
	mark, err := b.Mark(digest)
	if err != nil {
		return err
	}
	return b.DatapathMaps.Marks.Put(uint32(digest>>1%uint64(b.DatapathMaps.Marks.MaxEntries())), mark)
}

// TestMarkGeneration: what was refused is asked about again when what admission
// asks has changed.
func TestMarkGeneration(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		r := ingress(b.replication, n.in(b.replication, tcp{flags: "A"}))
		b.run(r, b.meetsStranger(n, b.replication))
		b.run(r, nothing)
		b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
		content, _ := b.snapshot()
		if content.Marks[b.Seeds.Digest(n.tuple(tcp{}))] {
			t.Error("the mark outlives its generation")
		}
		b.exec(r)
		if content, _ = b.snapshot(); !content.Marks[b.Seeds.Digest(n.tuple(tcp{}))] {
			t.Error("the tuple was not asked about again")
		}
	})
}

// TestAnswerOfPushedOutFlow: the answer to the last question of a flow that was
// pushed out is not taken for a beginning.
func TestAnswerOfPushedOutFlow(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.markTuple(n, m))
		b.run(egress(b.production, n.out(b.production, m)), nothing)
		b.run(ingress(b.replication, n.in(b.replication, m)), b.admits(n, m, b.replication))
	})
}

// TestSYNACKAgain: the kernel sends a SYN-ACK again when it had no room for the
// connection that the ACK ended; the flow is established by then.
func TestSYNACKAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		frame := n.out(b.production, synAck)
		b.run(egress(b.production, frame), b.moves(n, synAck, b.production, b.replication, frame))
	})
}

// TestSeenAhead: another CPU may have written a tick that this one has not
// reached; the flow is not idle.
func TestSeenAhead(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		flow := b.flow(n, m, b.replication, 0)
		flow.Seen += 100
		b.put(flowOf(m, flow))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
	})
}
