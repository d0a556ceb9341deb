// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"replypath/bpf"
)

const (
	flagHandshake  = uint16(bpf.DatapathFlowFlagsFLOW_HANDSHAKE)
	flagPeerEnded  = uint16(bpf.DatapathFlowFlagsFLOW_PEER_ENDED)
	flagAnswered   = uint16(bpf.DatapathFlowFlagsFLOW_END_ANSWERED)
	flagHeard      = uint16(bpf.DatapathFlowFlagsFLOW_END_HEARD)
	stateRequested = uint8(bpf.DatapathFlowStateFLOW_REQUESTED)
)

// youngHandshake is a half-open entry in the nursery.
func youngHandshake(f bpf.DatapathFlow) func(tables) {
	f.Flags |= flagHandshake
	return young(f)
}

// young is an entry in the nursery. In what is read it stands in the table of its kind.
func young(f bpf.DatapathFlow) func(tables) {
	return func(t tables) {
		if t.Young == nil {
			t.Young = make(map[bpf.DatapathTuple]bpf.DatapathFlow)
		}
		t.Young[f.Tuple] = f
	}
}

// wantYoung wants the nursery to have the entries of these peers, and no others.
func (b *bed) wantYoung(networks ...network) {
	b.t.Helper()
	found, err := b.Young()
	b.must(err)
	for _, n := range networks {
		if _, there := found[n.tuple(syn)]; !there {
			b.t.Errorf("%s is not in the nursery", n.peer)
		}
	}
	if len(found) != len(networks) {
		b.t.Errorf("the nursery has %d entries, want %d: %+v", len(found), len(networks), slices.Collect(maps.Keys(found)))
	}
}

// requested is a half-open entry whose SYN-ACK a request has sent.
func (b *bed) requested(n network, via nic, age uint32) bpf.DatapathFlow {
	b.t.Helper()
	f := b.answered(n, via, age)
	f.State |= stateRequested
	return f
}

// TestNursery: a connection begins there, and its handshake ends there, without a question to its socket.
func TestNursery(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.run(ingress(b.replication, n.in(b.replication, syn)), b.starts(n, syn, b.replication))
		b.wantYoung(n)

		flow := b.requested(n, b.replication, 0)
		b.put(youngHandshake(flow))
		flow.Seen = justNow
		flow.State = 0
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), effect{
			events: once(bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED),
			tables: func(t tables) {
				delete(t.HalfOpen, flow.Tuple)
				t.Established[flow.Tuple] = flow
			},
		})
		b.wantYoung(n)
		b.inOneTick(ingress(b.replication, n.in(b.replication, tcp{flags: "PA"})), func() effect {
			flow := b.flow(n, tcp{}, b.replication, 0)
			b.put(young(flow))
			flow.Flags |= flagActive
			return effect{tables: establishedFlow(flow)}
		})
		b.wantYoung(n)
	})
}

// TestNurseryWithoutRequest: where no request has sent the SYN-ACK, the socket is looked for, and the entry moves.
func TestNurseryWithoutRequest(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.answered(n, b.replication, 0)
		b.put(youngHandshake(flow))
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), establishes(flow, finalAck))
		b.wantYoung()
	})
}

// TestNurseryWrongACK: what answers no SYN-ACK of ours ends no handshake there.
func TestNurseryWrongACK(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, flow := range []bpf.DatapathFlow{b.requested(n, b.replication, 0), b.flow(n, syn, b.replication, 0)} {
			b.put(youngHandshake(flow))
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A", ack: 1})), unread(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE))
			b.wantYoung()
		}
	})
}

// TestNurseryElsewhere: the last ACK by another way, or after a second, chooses the way anew.
func TestNurseryElsewhere(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.requested(n, b.backup, 0)
		b.put(youngHandshake(flow))
		moved := b.requested(n, b.replication, 0)
		moved.Created = flow.Created
		want := establishes(moved, finalAck)
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), effect{events: want.events, tables: func(t tables) {
			want.tables(t)
			t.Established[moved.Tuple] = withSocket(t.Established[moved.Tuple], moved)
		}})
		b.wantYoung()

		flow = b.requested(n, b.replication, 2)
		b.put(youngHandshake(flow))
		want = establishes(flow, finalAck)
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), effect{events: want.events, tables: func(t tables) {
			want.tables(t)
			t.Established[flow.Tuple] = withSocket(t.Established[flow.Tuple], flow)
		}})
		b.wantYoung()
	})
}

// withSocket is an established entry of a connection that has a socket here.
func withSocket(f, handshake bpf.DatapathFlow) bpf.DatapathFlow {
	f.Flags &^= flagNoSocket
	f.State &^= stateRequested
	f.SndUna, f.RcvNxt = handshake.SndUna, handshake.RcvNxt
	return f
}

// TestNurseryLeft: after a second an entry moves to the table of its kind with its next segment; so it does with one that changes it.
func TestNurseryLeft(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.inOneTick(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), func() effect {
			flow := b.flow(n, tcp{}, b.replication, 1)
			flow.Flags |= flagActive
			b.put(young(flow))
			flow.Seen, flow.Flags = justNow, flow.Flags&^flagActive
			return effect{tables: establishedFlow(flow)}
		})
		b.wantYoung()

		old := b.flow(n, tcp{}, b.replication, 0)
		b.put(young(old))
		b.run(ingress(b.replication, n.in(b.replication, syn)), b.starts(n, syn, b.replication))
		b.wantYoung(n) // the new handshake; the connection before has moved

		flow := b.answered(n, b.replication, 5)
		b.put(youngHandshake(flow))
		again := flow
		again.Seen = justNow
		b.run(ingress(b.replication, n.in(b.replication, syn)), effect{tables: halfOpen(again)})
		b.wantYoung()
	})
}

// TestNurseryFull: what is over, or older than a second, moves for a newcomer, and nothing else does.
func TestNurseryFull(t *testing.T) {
	const chosen = 5
	for _, test := range []struct {
		name   string
		others uint32 // seconds
		change func(*bed, *bpf.DatapathFlow)
		moves  bool
	}{
		{"in its first second", 0, func(*bed, *bpf.DatapathFlow) {}, false},
		{"a second old", 0, func(b *bed, f *bpf.DatapathFlow) { f.Seen = b.ago(1) }, true},
		{"the oldest", 1, func(b *bed, f *bpf.DatapathFlow) { f.Seen = b.ago(2) }, true},
		{"closing", 2, func(_ *bed, f *bpf.DatapathFlow) { f.State |= stateClosing }, true},
	} {
		for _, handshake := range []bool{false, true} {
			t.Run(test.name, func(t *testing.T) {
				eachFamily(t, func(t *testing.T, b *bed, n network) {
					crowd, next := crowd(n, ways), newcomer(n)
					var changes []func(tables)
					for i, n := range crowd {
						f := b.flow(n, tcp{}, b.replication, test.others)
						if i == chosen {
							test.change(b, &f)
							if handshake {
								f.Flags |= flagHandshake
							}
						}
						changes = append(changes, young(f))
					}
					b.put(changes...)
					b.run(ingress(b.replication, next.in(b.replication, syn)), b.starts(next, syn, b.replication))
					if !test.moves {
						b.wantYoung(crowd...)
						return
					}
					b.wantYoung(append(slices.Delete(slices.Clone(crowd), chosen, chosen+1), next)...)
				})
			})
		}
	}
}

// TestNurseryCloses: it is noted when both ends have closed, and each has acknowledged that.
func TestNurseryCloses(t *testing.T) {
	const ours, theirs = 200, 300 // by which number each closes
	last := tcp{flags: "FA", seq: theirs - 1, ack: ours}
	for _, test := range []struct {
		name    string
		change  func(*bpf.DatapathFlow)
		segment tcp
		flags   uint16
		over    bool
	}{
		{"its FIN acknowledges ours", func(f *bpf.DatapathFlow) { f.State = stateClosing }, last, flagPeerEnded | flagHeard, false},
		{"it does not acknowledge ours", func(f *bpf.DatapathFlow) { f.State, f.SndNxt = stateClosing, ours+1 }, last, flagPeerEnded, false},
		{"we have not closed", func(*bpf.DatapathFlow) {}, last, flagPeerEnded, false},
		{"it acknowledges ours, and has not closed", func(f *bpf.DatapathFlow) { f.State = stateClosing }, tcp{flags: "A", ack: ours}, flagHeard, false},
		{"it acknowledges ours, and we have its FIN", func(f *bpf.DatapathFlow) {
			f.State, f.Flags = stateClosing, f.Flags|flagPeerEnded|flagAnswered
		}, tcp{flags: "A", ack: ours}, flagHeard, true},
		{"a second FIN", func(f *bpf.DatapathFlow) { f.Flags |= flagPeerEnded }, tcp{flags: "FA", seq: 7}, flagPeerEnded, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.inOneTick(ingress(b.replication, n.in(b.replication, test.segment)), func() effect {
					flow := b.flow(n, tcp{}, b.replication, 0)
					flow.SndNxt, flow.RcvNxt = ours, theirs
					test.change(&flow)
					b.put(young(flow))
					flow.Flags |= flagActive | test.flags
					return effect{tables: establishedFlow(flow)}
				})
				b.wantFinished(n, test.over)
			})
		})
	}
	for name, test := range map[string]struct {
		ended uint16
		ack   uint32
		flags uint16
		over  bool
	}{
		"we acknowledge its FIN":                     {flagPeerEnded, theirs, flagAnswered, false},
		"we acknowledge its FIN, and ours was heard": {flagPeerEnded | flagHeard, theirs, flagAnswered, true},
		"we acknowledge less":                        {flagPeerEnded, theirs - 1, 0, false},
		"we acknowledge what is not one":             {0, theirs, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				segment := tcp{flags: "A", ack: test.ack}
				frame := n.out(b.replication, segment)
				flow := b.flow(n, tcp{}, b.replication, 0)
				flow.RcvNxt, flow.Flags = theirs, flow.Flags|test.ended
				b.put(young(flow))
				flow.Flags |= test.flags
				b.run(egress(b.replication, frame), effect{tables: establishedFlow(flow)})
				b.wantFinished(n, test.over)
			})
		})
	}
}

// wantFinished forgets whether the connection is known to be over, and fails where that is not as wanted.
func (b *bed) wantFinished(n network, want bool) {
	b.t.Helper()
	place := b.finishedPlace(n.tuple(tcp{}))
	var mark uint64
	b.must(b.Finished.Lookup(place, &mark))
	b.must(b.Finished.Put(place, uint64(0)))
	if known := mark != 0; known != want {
		b.t.Errorf("the connection is known to be over: %v, want %v", known, want)
	}
}

// finished is a connection in the nursery that is over.
func (b *bed) finished(n network, m tcp) func(tables) {
	b.t.Helper()
	f := b.flow(n, m, b.replication, 0)
	f.State, f.Flags = stateClosing, f.Flags|flagPeerEnded|flagAnswered|flagHeard
	return young(f)
}

// forgetsOne is what a SYN does in a nursery that is full of connections that are over: one of them is taken out.
func (b *bed) forgetsOne(next network) effect {
	b.t.Helper()
	return effect{
		events: once(bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN),
		tables: func(t tables) {
			halfOpen(b.born(next, syn, b.replication))(t)
			left, err := b.Young()
			b.must(err)
			for tuple := range t.Established {
				if _, there := left[tuple]; !there {
					delete(t.Established, tuple)
				}
			}
		},
	}
}

// TestNurseryOver: such a connection, and one that its peer has reset, makes way without a move.
func TestNurseryOver(t *testing.T) {
	for name, over := range map[string]func(*bed, network) func(tables){
		"finished": func(b *bed, n network) func(tables) { return b.finished(n, tcp{}) },
		"reset": func(b *bed, n network) func(tables) {
			f := b.flow(n, tcp{}, b.replication, 0)
			f.Flags |= flagReset
			return young(f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				next := newcomer(n)
				var changes []func(tables)
				for _, n := range crowd(n, ways) {
					changes = append(changes, over(b, n))
				}
				b.put(changes...)
				b.run(ingress(b.replication, next.in(b.replication, syn)), b.forgetsOne(next))
				found, err := b.Young()
				b.must(err)
				if len(found) != ways {
					t.Errorf("the nursery has %d entries, want %d", len(found), ways)
				}
			})
		})
	}
}

// TestNurseryReset: a RST that the peer's host sent ends a connection where it is, one that anybody can send does not. A
// handshake it leaves alone.
func TestNurseryReset(t *testing.T) {
	state := connection{received: 1000, acked: 2000, window: 4096}
	genuine, forged := tcp{flags: "R", seq: 1000}, tcp{flags: "R", seq: 1000 + 1<<20}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		socket := connectTCP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort), state)
		defer closeSocket(t, socket)
		flow := b.flow(n, tcp{}, b.replication, 0)
		b.put(young(flow))
		b.run(ingress(b.replication, n.in(b.replication, forged)), nothing)
		b.run(ingress(b.backup, n.in(b.backup, forged)), unread(bpf.DatapathEventEVENT_REFUSED_CONTESTED))
		flow.Flags, flow.Seen = flow.Flags|flagReset, justNow
		b.run(ingress(b.replication, n.in(b.replication, genuine)), effect{tables: establishedFlow(flow)})
		b.wantYoung(n)

		b.put(youngHandshake(b.flow(n, syn, b.replication, 0)))
		b.run(ingress(b.replication, n.in(b.replication, genuine)), nothing)
		b.wantYoung(n)
	})
}

// TestNurseryTimeWait: what is left of such a connection answers a FIN that is sent again by the way that it came, for as long
// as it is remembered who had begun.
func TestNurseryTimeWait(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		timeWaitPort++ // which the last one still holds
		m := tcp{ports: ports{peer: 4711, self: timeWaitPort}}
		c := acceptedTimeWait(t, netip.AddrPortFrom(n.self, m.self), netip.AddrPortFrom(n.peer, m.peer))
		closing := b.flow(n, m, b.replication, 0)
		closing.State, closing.Flags, closing.SndNxt = stateClosing, closing.Flags|flagPeerEnded|flagAnswered, c.acked
		b.put(young(closing))
		m.flags, m.seq, m.ack = "A", c.received, c.acked
		b.exec(ingress(b.replication, n.in(b.replication, m)))

		m.flags, m.seq = "FA", c.received-1
		mark := b.finishedMark(n.tuple(m))
		b.put()
		flow := b.born(n, m, b.replication)
		flow.Flags |= flagReset
		b.run(ingress(b.replication, n.in(b.replication, m)), effect{
			events: events{bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED: 1, bpf.DatapathEventEVENT_READMITTED_ESTABLISHED: 1},
			tables: establishedFlow(flow),
		})
		b.put()
		b.setFinishedMark(n.tuple(m), mark-2<<32) // of two periods before
		b.run(ingress(b.replication, n.in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_SEGMENT))
	})
}

// finishedMark is the mark of a tuple whose connection, which the peer opened, is over.
func (b *bed) finishedMark(tuple bpf.DatapathTuple) uint64 {
	b.t.Helper()
	var mark uint64
	b.must(b.Finished.Lookup(b.finishedPlace(tuple), &mark))
	return mark ^ b.Seeds.Digest(tuple)
}

func (b *bed) setFinishedMark(tuple bpf.DatapathTuple, mark uint64) {
	b.t.Helper()
	b.must(b.Finished.Put(b.finishedPlace(tuple), mark^b.Seeds.Digest(tuple)))
}

func (b *bed) finishedPlace(tuple bpf.DatapathTuple) uint32 {
	return uint32(b.Seeds.Digest(tuple) >> 1 % uint64(b.Finished.MaxEntries()))
}

// TestNurseryAnswers: what the host sends finds its flow there.
func TestNurseryAnswers(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frame := n.out(b.production, synAck)
		flow := b.flow(n, syn, b.replication, 0)
		b.put(youngHandshake(flow))
		flow.State, flow.SndUna, flow.SndNxt = stateAnswered|stateAsymmetric, ourISN, ourISN+1
		want := b.moves(n, synAck, b.production, b.replication, frame)
		want.tables = halfOpen(flow)
		b.run(egress(b.production, frame), want)
		b.wantYoung(n)

		fin := tcp{flags: "FA"}
		frame = n.out(b.production, fin)
		flow = b.flow(n, tcp{}, b.replication, 0)
		b.put(young(flow))
		flow.State, flow.Seen, flow.SndNxt = stateClosing|stateAsymmetric, justNow, fin.end()
		want = b.moves(n, fin, b.production, b.replication, frame)
		want.tables = establishedFlow(flow)
		b.run(egress(b.production, frame), want)
		b.wantYoung(n)

		// A handshake is not asked about segments of a connection before.
		b.put(youngHandshake(b.answered(n, b.replication, 0)))
		b.run(egress(b.production, n.out(b.production, tcp{flags: "A", seq: 7})), nothing)
	})
}

// TestNurseryForgets: the host opens a connection by the tuple.
func TestNurseryForgets(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(young(b.flow(n, tcp{}, b.replication, 0)))
		period := b.ago(0) >> 10
		if b.Seconds(1) > 17 { // see finished_period()
			period >>= 2
		}
		b.setFinishedMark(n.tuple(syn), uint64(period)<<32)
		b.run(egress(b.production, n.out(b.production, syn)), effect{
			events: once(bpf.DatapathEventEVENT_ADMITTED_OUTBOUND),
			tables: func(t tables) {
				delete(t.Established, n.tuple(syn))
				t.Outbound[b.Seeds.Digest(n.tuple(syn))] = justNow
			},
		})
		b.wantYoung()
		var left uint64
		b.must(b.Finished.Lookup(b.finishedPlace(n.tuple(syn)), &left))
		if left != 0 {
			t.Errorf("that the peer had opened one is remembered: %#x", left)
		}
	})
}
