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

func youngHandshake(f bpf.DatapathFlow) func(tables) {
	f.Flags |= flagHandshake
	return young(f)
}

// young is an entry in the nursery. In what is read it stands in the table of its kind.
func young(f bpf.DatapathFlow) func(tables) {
	return func(t tables) {
		if t.Young == nil {
			t.Young = make(entries)
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
	f := b.answered(n, via, age)
	f.State |= stateRequested
	return f
}

// TestNursery: a connection begins there, and its handshake ends there, without a question to its socket.
func TestNursery(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.arrives(n, syn, b.starts(n, syn, b.replication))
		b.wantYoung(n)

		flow := b.requested(n, b.replication, 0)
		b.put(youngHandshake(flow))
		flow.Seen = justNow
		flow.State = 0
		b.run(ingress(b.replication, n.in(b.replication, finalAck)), effect{
			events: once(eventAdmittedEstablished),
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

// TestNurseryElsewhere: the last ACK by another way, or after a second, chooses the way anew.
func TestNurseryElsewhere(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		begun := b.requested(n, b.backup, 0)
		moved := b.requested(n, b.replication, 0)
		moved.Created = begun.Created
		old := b.requested(n, b.replication, 2)
		for _, c := range []struct{ begun, becomes bpf.DatapathFlow }{{begun, moved}, {old, old}} {
			b.put(youngHandshake(c.begun))
			b.arrives(n, finalAck, establishes(c.becomes, finalAck).and(func(t tables) { // it has a socket here
				f := t.Established[c.becomes.Tuple]
				f.Flags &^= flagNoSocket
				f.State &^= stateRequested
				f.SndUna, f.RcvNxt = c.becomes.SndUna, c.becomes.RcvNxt
				t.Established[f.Tuple] = f
			}))
			b.wantYoung()
		}
	})
}

// TestNurseryFull: what is over, or older than a second, moves for a newcomer, and nothing else does.
func TestNurseryFull(t *testing.T) {
	const chosen = 5
	seen := func(age uint32) func(*bed, *bpf.DatapathFlow) {
		return func(b *bed, f *bpf.DatapathFlow) { f.Seen = b.ago(age) }
	}
	for _, test := range []struct {
		name   string
		others uint32 // seconds
		change func(*bed, *bpf.DatapathFlow)
		moves  bool
	}{
		{"in its first second", 0, func(b *bed, f *bpf.DatapathFlow) { f.Seen -= b.Seconds(1) / 2 }, false},
		{"a second old", 0, seen(1), true},
		{"the oldest", 1, seen(2), true},
		{"closing", 2, func(_ *bed, f *bpf.DatapathFlow) { f.State |= stateClosing }, true},
	} {
		for _, flags := range []uint16{0, flagHandshake} {
			under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
				crowd, next := crowd(n, ways), newcomer(n)
				var changes []func(tables)
				for i, n := range crowd {
					f := b.flow(n, tcp{}, b.replication, test.others)
					if i == chosen {
						test.change(b, &f)
						f.Flags |= flags
					}
					changes = append(changes, young(f))
				}
				b.put(changes...)
				b.arrives(next, syn, b.starts(next, syn, b.replication))
				if test.moves {
					crowd[chosen] = next
				}
				b.wantYoung(crowd...)
			})
		}
	}
}

// TestNurseryCloses: it is noted when both ends have closed, and each has acknowledged that.
func TestNurseryCloses(t *testing.T) {
	const ours, theirs = 200, 300 // by which number each closes
	last, acknowledges := tcp{flags: "FA", seq: theirs - 1, ack: ours}, tcp{flags: "A", ack: ours}
	for _, test := range []struct {
		name    string
		state   uint8
		ended   uint16
		sndNxt  uint32
		segment tcp
		flags   uint16
		over    bool
	}{
		{"its FIN acknowledges ours", stateClosing, 0, ours, last, flagPeerEnded | flagHeard, false},
		{"it does not acknowledge ours", stateClosing, 0, ours + 1, last, flagPeerEnded, false},
		{"we have not closed", 0, 0, ours, last, flagPeerEnded, false},
		{"it acknowledges ours, and has not closed", stateClosing, 0, ours, acknowledges, flagHeard, false},
		{"it acknowledges ours, and we have its FIN", stateClosing, flagPeerEnded | flagAnswered, ours, acknowledges, flagHeard, true},
		{"a second FIN", 0, flagPeerEnded, ours, tcp{flags: "FA", seq: 7}, flagPeerEnded, false},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.inOneTick(ingress(b.replication, n.in(b.replication, test.segment)), func() effect {
				flow := b.flow(n, tcp{}, b.replication, 0)
				flow.State, flow.Flags, flow.SndNxt, flow.RcvNxt = test.state, flow.Flags|test.ended, test.sndNxt, theirs
				b.put(young(flow))
				flow.Flags |= flagActive | test.flags
				return effect{tables: establishedFlow(flow)}
			})
			b.wantFinished(n, test.over)
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
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			flow := b.flow(n, tcp{}, b.replication, 0)
			flow.RcvNxt, flow.Flags = theirs, flow.Flags|test.ended
			b.put(young(flow))
			flow.Flags |= test.flags
			m := tcp{flags: "A", ack: test.ack}
			b.run(egress(b.replication, n.out(b.replication, m)), effect{tables: establishedFlow(flow)})
			b.wantFinished(n, test.over)
		})
	}
}

// finishedMark is what is remembered of a tuple whose connection is over, and changes to something else.
func (b *bed) finishedMark(tuple bpf.DatapathTuple, to uint64) (mark uint64) {
	b.t.Helper()
	place := uint32(b.Seeds.Digest(tuple) >> 1 % uint64(b.Finished.MaxEntries()))
	b.must(b.Finished.Lookup(place, &mark))
	b.must(b.Finished.Put(place, to))
	return mark
}

// wantFinished forgets whether the connection is known to be over, and fails where that is not as wanted.
func (b *bed) wantFinished(n network, want bool) {
	b.t.Helper()
	if known := b.finishedMark(n.tuple(tcp{}), 0) != 0; known != want {
		b.t.Errorf("the connection is known to be over: %v, want %v", known, want)
	}
}

// TestNurseryOver: in a nursery full of such connections, or ones that their peers have reset, one makes way without a
// move.
func TestNurseryOver(t *testing.T) {
	for name, over := range map[string]struct {
		state uint8
		flags uint16
	}{"finished": {stateClosing, flagPeerEnded | flagAnswered | flagHeard}, "reset": {0, flagReset}} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			next := newcomer(n)
			var changes []func(tables)
			for _, n := range crowd(n, ways) {
				f := b.flow(n, tcp{}, b.replication, 0)
				f.State, f.Flags = over.state, f.Flags|over.flags
				changes = append(changes, young(f))
			}
			b.put(changes...)
			left := map[bpf.DatapathTuple]bpf.DatapathFlow{}
			b.arrives(next, syn, b.starts(next, syn, b.replication).and(func(t tables) {
				var err error
				left, err = b.Young()
				b.must(err)
				maps.DeleteFunc(t.Established, func(tuple bpf.DatapathTuple, _ bpf.DatapathFlow) bool {
					_, there := left[tuple]
					return !there
				})
			}))
			if len(left) != ways {
				t.Errorf("the nursery has %d entries, want %d", len(left), ways)
			}
		})
	}
}

// TestNurseryReset: a RST that the peer's host sent ends a connection where it is, one that anybody can send does
// not. A handshake it leaves alone.
func TestNurseryReset(t *testing.T) {
	state := connection{received: 1000, acked: 2000, window: 4096}
	genuine, forged := tcp{flags: "R", seq: 1000}, tcp{flags: "R", seq: 1000 + 1<<20}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		socket := connectTCP(t, n.here(), n.there(), state)
		defer closeSocket(t, socket)
		flow := b.flow(n, tcp{}, b.replication, 0)
		b.put(young(flow))
		b.arrives(n, forged, nothing)
		b.run(ingress(b.backup, n.in(b.backup, forged)), unread(eventRefusedContested))
		flow.Flags, flow.Seen = flow.Flags|flagReset, justNow
		b.arrives(n, genuine, effect{tables: establishedFlow(flow)})
		b.wantYoung(n)

		b.put(youngHandshake(b.flow(n, syn, b.replication, 0)))
		b.arrives(n, genuine, nothing)
		b.wantYoung(n)
	})
}

// TestNurseryTimeWait: what is left of such a connection answers a FIN that is sent again by the way that it came, for
// as long as it is remembered who had begun.
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
		b.put()
		flow := b.born(n, m, b.replication)
		flow.Flags |= flagReset
		b.arrives(n, m, effect{
			events: events{eventAdmittedEstablished: 1, eventReadmittedEstablished: 1}, tables: establishedFlow(flow),
		})
		b.put()
		digest := b.Seeds.Digest(n.tuple(m))
		mark := b.finishedMark(n.tuple(m), 0) ^ digest
		b.finishedMark(n.tuple(m), (mark-2<<32)^digest) // of two periods before
		b.arrives(n, m, unread(eventIgnoredSegment))
	})
}

var nurseryFamily = map[string]story{
	"where no request has sent the SYN-ACK, the entry moves": func(t *testing.T, b *bed, n network) {
		flow := b.answered(n, b.replication, 0)
		b.put(youngHandshake(flow))
		b.arrives(n, finalAck, establishes(flow, finalAck))
		b.wantYoung()
	},
	"what answers no SYN-ACK of ours ends no handshake there": func(t *testing.T, b *bed, n network) {
		for _, flow := range []bpf.DatapathFlow{b.requested(n, b.replication, 0), b.flow(n, syn, b.replication, 0)} {
			b.put(youngHandshake(flow))
			b.arrives(n, tcp{flags: "A", ack: 1}, unread(eventIgnoredHandshake))
			b.wantYoung()
		}
	},
	"an entry moves after a second, or with what changes it": func(t *testing.T, b *bed, n network) {
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
		b.arrives(n, syn, b.starts(n, syn, b.replication))
		b.wantYoung(n) // the new handshake; the connection before has moved

		flow := b.answered(n, b.replication, 5)
		b.put(youngHandshake(flow))
		again := flow
		again.Seen = justNow
		b.arrives(n, syn, effect{tables: halfOpen(again)})
		b.wantYoung()
	},
	"what the host sends finds its flow there": func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, syn, b.replication, 0)
		b.put(youngHandshake(flow))
		flow.State, flow.SndUna, flow.SndNxt = stateAnswered|stateAsymmetric, ourISN, ourISN+1
		b.wantMoved(n, synAck, halfOpen(flow))
		b.wantYoung(n)

		fin := tcp{flags: "FA"}
		flow = b.flow(n, tcp{}, b.replication, 0)
		b.put(young(flow))
		flow.State, flow.Seen, flow.SndNxt = stateClosing|stateAsymmetric, justNow, fin.end()
		b.wantMoved(n, fin, establishedFlow(flow))
		b.wantYoung(n)

		// A handshake is not asked about segments of a connection before.
		b.put(youngHandshake(b.answered(n, b.replication, 0)))
		b.leaves(n, tcp{flags: "A", seq: 7}, nothing)
	},
	"the host opens a connection by the tuple": func(t *testing.T, b *bed, n network) {
		b.put(young(b.flow(n, tcp{}, b.replication, 0)))
		period := b.ago(0) >> either(b.Seconds(1) > 17, 12, 10) // see finished_period()
		b.finishedMark(n.tuple(syn), uint64(period)<<32^b.Seeds.Digest(n.tuple(syn)))
		b.leaves(n, syn, b.notes(n, syn).and(func(t tables) { delete(t.Established, n.tuple(syn)) }))
		b.wantYoung()
		if left := b.finishedMark(n.tuple(syn), 0); left != 0 {
			t.Errorf("that the peer had opened one is remembered: %#x", left)
		}
	},
}

func TestNurseryFamily(t *testing.T) { tell(t, eachFamily, nurseryFamily) }
