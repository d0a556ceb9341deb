// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

const noHeader = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)

// reaction is what comes back in the connection of segment.
var reaction = tcp{flags: "PA", seq: 7, payload: 10}

// opens has the host open a connection that is moved to the replication interface, and seen there. It is a second old.
func (b *bed) opens(n network) {
	b.t.Helper()
	b.moveBySource(n, syn)
	b.ageNotes(1)
}

// moveBySource has the host send what is moved to the replication interface, and seen there.
func (b *bed) moveBySource(n network, m message) {
	b.t.Helper()
	verdict, frame, _ := b.exec(egress(b.production, n.out(b.production, m)))
	if verdict != redirect {
		b.t.Fatalf("verdict %d of what the host originates", verdict)
	}
	var words []bpf.DatapathHandover
	b.must(b.Handovers.Lookup(uint32(0), &words))
	b.exec(arrive(b.replication, frame, words[0].Mark))
}

// answeredHere has the established table tell of the connection of segment.
func (b *bed) answeredHere(n network) {
	b.t.Helper()
	b.own(n)
	b.manageStrong(b.replication, nil)
	b.opens(n)
	b.run(ingress(b.replication, n.in(b.replication, reaction)), b.refreshesNote(n))
	b.wantAnswered(n, true)
}

// refreshesNote is the effect of an answer once a second.
func (b *bed) refreshesNote(n network) effect {
	return effect{tables: func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(reaction))] = justNow }}
}

func (b *bed) answeredEntry(n network) *bpf.DatapathFlow {
	b.t.Helper()
	entry, err := b.Answered(n.tuple(segment))
	b.must(err)
	return entry
}

func (b *bed) wantAnswered(n network, want bool) {
	b.t.Helper()
	if entry := b.answeredEntry(n); (entry != nil) != want {
		b.t.Errorf("the established table has %+v, want something: %v", entry, want)
	}
}

// wantMoved checks how many packets of the connection were moved, together.
func (b *bed) wantMoved(n network, want uint64) {
	b.t.Helper()
	var got uint64
	if record := b.record(n, segment); record != nil {
		got = record.Moved
	}
	if entry := b.answeredEntry(n); entry != nil {
		got += entry.Corrected
	}
	if got != want {
		b.t.Errorf("%d packets were moved, want %d", got, want)
	}
}

// changeEntry writes over the entry of the connection.
func (b *bed) changeEntry(n network, change func(*bpf.DatapathFlow)) {
	b.t.Helper()
	digest := b.Seeds.Digest(n.tuple(segment))
	index, _ := bpf.Sets(digest, b.Established.MaxEntries())
	var set bpf.DatapathFlowSet
	b.must(b.Established.Lookup(index, &set))
	change(&set.Flow[slices.Index(set.Digest[:], digest)])
	b.must(b.Established.Put(index, set))
}

// TestAnswered: segments of an answered connection are moved and counted as before. The record has what was moved before, the
// entry the rest.
func TestAnswered(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		frame := n.out(b.production, segment)
		for range 2 {
			b.must(b.ForgetHandover())
			b.leavesBy(n, segment, byGateway)
			moved := readdressed(frame, b.replication.router, b.replication.MAC)
			b.run(arrive(b.replication, moved, 1), effect{
				pairs: pairs{b.originated(n, segment, corrected): {Packets: 1, Bytes: uint64(len(frame))}},
			})
		}
		b.run(ingress(b.replication, n.in(b.replication, reaction)), nothing)
		b.wantMoved(n, 3)
		if record, entry := b.record(n, segment), b.answeredEntry(n); record.Moved != 1 || entry.Corrected != 2 {
			t.Errorf("the record has %d packets, the entry %d", record.Moved, entry.Corrected)
		}

		// A second later the next answer enters it anew: the record has it all.
		b.changeEntry(n, func(f *bpf.DatapathFlow) { f.Seen -= b.Seconds(1) })
		b.ageNotes(1)
		b.run(ingress(b.replication, n.in(b.replication, reaction)), b.refreshesNote(n))
		if record, entry := b.record(n, segment), b.answeredEntry(n); record.Moved != 3 || entry == nil || entry.Corrected != 0 {
			t.Errorf("anew: the record has %+v, the entry %+v", record, entry)
		}
	})
}

// TestAnsweredNotEntered: what is not certain is left to the record.
func TestAnsweredNotEntered(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(b *bed, n network) // before the answer
		via    func(b *bed) nic        // nil: the replication interface
	}{
		{name: "the answer comes by another interface", via: func(b *bed) nic { return b.backup }},
		{name: "something changed that decides", change: func(b *bed, _ network) { b.outdate() }},
		{name: "it is not told what decides", change: func(b *bed, n network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Ways = 0 })
			b.moveBySource(n, segment)
		}},
		{name: "weak by now", change: func(b *bed, _ network) { b.manage(b.replication, nil) }},
		{name: "the interface is gone", change: func(b *bed, _ network) { b.setInterface(b.replication, bpf.DatapathInterface{}) }},
		{name: "the last packet was not seen leaving", change: func(b *bed, n network) {
			b.switchMode(bpf.DatapathModeMODE_OBSERVE)
			b.exec(egress(b.production, n.out(b.production, segment)))
		}},
		{name: "no record", change: func(b *bed, n network) { b.must(b.DeleteRecord(n.tuple(segment))) }},
		{name: "another's record", change: func(b *bed, n network) {
			record := b.record(n, segment)
			record.Tuple.PeerPort++
			b.must(b.SetRecord(n.tuple(segment), *record))
		}},
		{name: "the peer opens the next one", change: func(b *bed, n network) {
			note := b.note(n)
			b.put(halfOpen(b.flow(n, syn, b.replication, 0)), note)
		}},
		{name: "in the nursery", change: func(b *bed, n network) {
			note := b.note(n)
			young := b.flow(n, syn, b.replication, 0)
			young.Flags |= flagHandshake
			b.put(note, func(t tables) { t.Young = map[bpf.DatapathTuple]bpf.DatapathFlow{young.Tuple: young} })
		}},
		{name: "closed by the host", change: func(b *bed, n network) { b.moveBySource(n, tcp{flags: "FA", seq: 3}) }},
		{name: "reset by the host", change: func(b *bed, n network) { b.moveBySource(n, tcp{flags: "R", seq: 3}) }},
		{name: "decided by no managed interface's choice", change: func(b *bed, n network) {
			record := b.record(n, segment)
			record.From = 0
			b.must(b.SetRecord(n.tuple(segment), *record))
		}},
		{name: "a crowded set", change: func(b *bed, n network) {
			note := b.note(n)
			b.put(note, func(t tables) {
				for i := range uint16(bpf.DatapathWaysCROWDED) {
					f := b.flow(n, tcp{ports: ports{peer: peerPort + 100 + i, self: selfPort}}, b.backup, 0)
					t.Established[f.Tuple] = f
				}
			})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				via := b.replication
				if test.via != nil {
					via = test.via(b)
				}
				b.own(n)
				b.manageStrong(b.replication, nil)
				b.opens(n)
				if test.change != nil {
					test.change(b, n)
				}
				b.exec(ingress(via, n.in(via, reaction)))
				b.wantAnswered(n, false)
			})
		})
	}
}

// note keeps what is noted of the connection, where the tables are written anew.
func (b *bed) note(n network) func(tables) { return b.sent(n, segment, 1) }

// TestAnsweredEnds: what the entry does not tell ends it. The packet goes as without, and nothing that was counted is lost.
func TestAnsweredEnds(t *testing.T) {
	fragment := func(h *headers) { h.v4.Flags = layers.IPv4MoreFragments }
	for _, test := range []struct {
		name   string
		change func(b *bed, n network)
		sends  *tcp                                  // nil: segment
		frame  func(b *bed, n network, m tcp) []byte // nil: by the production interface
		by     way
	}{
		{name: "something changed that decides", change: func(b *bed, _ network) { b.outdate() }, by: byGateway},
		{name: "no answer for two seconds", by: byGateway, change: func(b *bed, n network) {
			b.changeEntry(n, func(f *bpf.DatapathFlow) { f.Seen -= b.Seconds(3) })
		}},
		{name: "the kernel chooses another interface", by: byGateway, change: func(b *bed, n network) {
			b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Flags |= noHeader }) // so that no MAC tells
			b.changeEntry(n, func(f *bpf.DatapathFlow) { f.SndNxt = uint32(b.backup.interfaceIndex) })
		}},
		{name: "the kernel's choice is no interface", by: byGateway, change: func(b *bed, n network) {
			b.changeEntry(n, func(f *bpf.DatapathFlow) { f.SndNxt = 1 << 20 })
		}},
		{name: "FIN", sends: &tcp{flags: "FA", seq: 3}, by: byGateway},
		{name: "RST", sends: &tcp{flags: "R", seq: 3}, by: byGateway},
		{name: "the first fragment", by: byGateway, frame: func(b *bed, n network, m tcp) []byte {
			if n.family == 4 {
				return n.out(b.production, m, fragment)
			}
			return extend(n.out(b.production, m), first)
		}},
		{name: "for a group", by: uncounted, frame: func(b *bed, n network, m tcp) []byte {
			return n.out(b.production, m, destinationMAC([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
		}},
		{name: "a guest's frame", by: uncounted, frame: func(b *bed, n network, m tcp) []byte {
			return readdressed(n.out(b.production, m), b.production.router, neighbour)
		}},
		{name: "weak by now", by: asRouted(weakHost, 1), change: func(b *bed, _ network) { b.manage(b.replication, nil) }},
		{name: "the interface is gone", by: asRouted(bpf.DatapathOutcomeOUTCOME_LINK_DOWN, 1), change: func(b *bed, _ network) {
			b.setInterface(b.replication, bpf.DatapathInterface{})
		}},
		{name: "observing", by: asRouted(bpf.DatapathOutcomeOUTCOME_OBSERVE, 1), change: func(b *bed, _ network) {
			b.switchMode(bpf.DatapathModeMODE_OBSERVE)
		}},
		{name: "link down", by: asRouted(bpf.DatapathOutcomeOUTCOME_LINK_DOWN, 1), change: func(b *bed, _ network) { b.cutCable(b.replication) }},
		{name: "the gateway has no MAC any more", by: asRouted(noNextHop, 1), change: func(b *bed, n network) {
			b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{Ifindex: b.replication.Index}))
		}},
		{name: "nor may another take its place", by: asRouted(noNextHop, 1), change: func(b *bed, n network) {
			b.addGateway(b.replication, n, secondGateway, secondRouter)
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) {
				r.NextHop, r.Gateway4, r.Gateway6 = uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY), secondGateway, secondGateway
			})
			b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{Ifindex: b.replication.Index}))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.answeredHere(n)
				b.moveBySource(n, segment)
				b.must(b.ForgetHandover())
				m := segment
				if test.sends != nil {
					m = *test.sends
				}
				if test.change != nil {
					test.change(b, n)
				}
				frame := n.out(b.production, m)
				if test.frame != nil {
					frame = test.frame(b, n, m)
				}
				b.run(egress(b.production, frame), test.by(b, n, m, frame))
				b.wantAnswered(n, false)
				b.wantMoved(n, 2)
			})
		})
	}
}

// TestAnsweredEndsByAnswer: an answer that is not the next one by the way of those before ends the entry. One by another
// interface or from another MAC does, and any after a second.
func TestAnsweredEndsByAnswer(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.run(ingress(b.backup, n.in(b.backup, reaction)), nothing)
		b.wantAnswered(n, false)
	})
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.run(ingress(b.replication, readdressed(n.in(b.replication, reaction), b.replication.MAC, secondRouter)), nothing)
		b.wantAnswered(n, false)
	})
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.changeEntry(n, func(f *bpf.DatapathFlow) { f.Seen -= b.Seconds(1) })
		b.run(ingress(b.replication, n.in(b.replication, reaction)), nothing) // the note is not due
		b.wantAnswered(n, false)
		b.wantMoved(n, 1)
	})
}

// TestAnsweredClosed: a connection that the host has closed is not entered again, until the next one of the tuple is answered.
func TestAnsweredClosed(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.moveBySource(n, tcp{flags: "FA", seq: 3})
		b.ageNotes(1)
		b.exec(ingress(b.replication, n.in(b.replication, reaction)))
		b.wantAnswered(n, false)
		b.opens(n)
		b.exec(ingress(b.replication, n.in(b.replication, reaction)))
		b.wantAnswered(n, true)
	})
}

// TestAnsweredKeepsRecord: what is sent keeps the record from being the quietest, though the entry takes it.
func TestAnsweredKeepsRecord(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		for _, half := range []bool{false, true} {
			b.changeEntry(n, func(f *bpf.DatapathFlow) {
				f.RcvNxt -= b.Seconds(1)
				f.Created = f.Seen
				if half {
					f.Created -= b.Seconds(1) / 2
				}
			})
			record := b.record(n, segment)
			record.Seen -= b.Seconds(1)
			b.must(b.SetRecord(n.tuple(segment), *record))
			b.moveBySource(n, segment)
			if after := b.record(n, segment); (after.Seen != record.Seen) != half || b.answeredEntry(n).RcvNxt < record.Seen+b.Seconds(1) {
				t.Errorf("half a second later %v: the record was written at %d, then at %d", half, record.Seen, after.Seen)
			}
		}
		b.must(b.DeleteRecord(n.tuple(segment)))
		b.changeEntry(n, func(f *bpf.DatapathFlow) { f.RcvNxt--; f.Created -= b.Seconds(1) })
		b.leavesBy(n, segment, byGateway)
	})
}

// TestAnsweredEndedUnderWay: what ends between the move and the target counts in the record.
func TestAnsweredEndedUnderWay(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.must(b.ForgetHandover())
		_, moved, _ := b.exec(egress(b.production, n.out(b.production, segment)))
		b.exec(ingress(b.backup, n.in(b.backup, reaction)))
		b.wantAnswered(n, false)
		b.run(arrive(b.replication, moved, 1), effect{
			pairs: pairs{b.originated(n, segment, corrected): {Packets: 1, Bytes: uint64(len(moved))}},
		})
		b.wantMoved(n, 2)
	})
}

// TestAnsweredNextConnection: the next connection of the tuple ends the entry, whoever opens it.
func TestAnsweredNextConnection(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.moveBySource(n, segment)
		b.moveBySource(n, syn)
		b.wantAnswered(n, false)
		b.wantMoved(n, 3)
	})
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.exec(ingress(b.backup, n.in(b.backup, syn)))
		b.wantAnswered(n, true) // anybody can send a SYN
		b.exec(egress(b.production, n.out(b.production, synAck)))
		b.wantAnswered(n, false)
		b.exec(ingress(b.backup, n.in(b.backup, finalAck)))
		frame := n.out(b.production, segment)
		verdict, moved, _ := b.exec(egress(b.production, frame))
		if want := readdressed(frame, b.backup.router, b.backup.MAC); verdict != redirect || string(moved) != string(want) {
			t.Errorf("a reply of the next connection: verdict %d, packet\n%x, want\n%x", verdict, moved, want)
		}
	})
}

// TestAnsweredByNextHop: the entry names the next hop, whose MAC is that of the moment.
func TestAnsweredByNextHop(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.addGateway(b.replication, n, uint32(b.replication.gateway(n.family)), secondRouter)
		b.leavesBy(n, segment, bySecond)
		b.wantAnswered(n, true)
	})
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.must(b.SetOnLink(b.replication.Index, prefix(n.peer)))
		b.answeredHere(n)
		b.leavesBy(n, segment, onLink)
		b.wantAnswered(n, true)
	})
}

// TestAnsweredFromTunnel: the kernel's choice has no Ethernet header, and thus no MAC that tells whose frame it is.
func TestAnsweredFromTunnel(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.manage(b.production, func(r *bpf.DatapathInterface) { r.Flags |= noHeader })
		frame := readdressed(n.out(b.production, segment), b.production.router, neighbour)
		b.run(egress(b.production, frame), byGateway(b, n, segment, frame))
		b.wantAnswered(n, true)
	})
}

// TestAnsweredTooLarge: the sender is told of the size once a second, and the tracer what became of the packet.
func TestAnsweredTooLarge(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU; r.Flags |= narrow })
		tracer := b.traceAll()
		m := tcp{flags: "PA", seq: 3, payload: 1380}
		frame := n.out(b.production, m)
		verdict, _, _ := b.exec(egress(b.production, frame))
		record := b.record(n, m)
		if verdict != redirect || record.Told == 0 || bpf.DatapathOutcome(record.Outcome) != bpf.DatapathOutcomeOUTCOME_MTU {
			t.Errorf("verdict %d, what is kept: %+v", verdict, record)
		}
		b.wantAnswered(n, false)
		events := tracer.read()
		if len(events) != 1 || events[0].Kind != uint8(bpf.DatapathTraceKindTRACE_RETURNED) || events[0].Tuple != n.tuple(m) ||
			events[0].Table != uint8(bpf.DatapathTableTABLE_ORIGINATED) || events[0].FlowIfindex != b.replication.Index {
			t.Errorf("traced: %+v", events)
		}
		b.leavesBy(n, m, asRouted(bpf.DatapathOutcomeOUTCOME_MTU, 0))
	})
}

// TestAnsweredTraced: a tracer sees that the source decided, and that an answer is of no flow.
func TestAnsweredTraced(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		tracer := b.traceAll()
		b.moveBySource(n, segment)
		b.exec(ingress(b.replication, n.in(b.replication, reaction)))
		events := tracer.read()
		if len(events) != 3 {
			t.Fatalf("traced: %+v", events)
		}
		moved, leaving, in := events[0], events[1], events[2]
		if moved.Kind != tracedMove || moved.Table != uint8(bpf.DatapathTableTABLE_ORIGINATED) || moved.FlowIfindex != b.replication.Index ||
			moved.Tuple != n.tuple(segment) {
			t.Errorf("traced as moved: %+v", moved)
		}
		if leaving.Kind != tracedLeaving || in.Kind != tracedIn || in.Table != noTable || in.FlowIfindex != 0 {
			t.Errorf("traced then: %+v, %+v", leaving, in)
		}
		b.exec(ingress(b.backup, n.in(b.backup, syn)))
		events = tracer.read()
		if len(events) != 1 || events[0].Table != uint8(bpf.DatapathTableTABLE_HALF_OPEN) || events[0].FlowIfindex != b.backup.Index {
			t.Errorf("a handshake of the tuple is traced as %+v", events)
		}
	})
}

// TestAnsweredLost: what was moved and never seen leaving is lost, whoever decided.
func TestAnsweredLost(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.must(b.ForgetHandover())
		frame := n.out(b.production, segment)
		b.run(egress(b.production, frame), byGateway(b, n, segment, frame))
		want := byGateway(b, n, segment, frame)
		want.pairs = pairs{pair(b.production, b.replication, n, segment, bpf.DatapathOutcomeOUTCOME_LOST): {Packets: 1, Bytes: uint64(len(frame))}}
		b.run(egress(b.production, frame), want)
	})
}

// TestAnsweredIsNoFlow: nothing else heeds the entry: errors about the connection go as without, and it makes room.
func TestAnsweredIsNoFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		e := b.about(n, segment)
		frame := n.out(b.production, e)
		b.exec(egress(b.production, frame))
		if record := b.record(n, segment); record.Moved != 1 || b.answeredEntry(n).Corrected != 0 {
			t.Errorf("an error counts as a segment: %+v", record)
		}
		// A handshake of another tuple takes its way where the set is full.
		var set bpf.DatapathFlowSet
		digest := b.Seeds.Digest(n.tuple(segment))
		index, _ := bpf.Sets(digest, b.Established.MaxEntries())
		b.must(b.Established.Lookup(index, &set))
		for way, taken := range set.Digest {
			if taken == 0 {
				f := b.flow(n, tcp{ports: ports{peer: peerPort + 100 + uint16(way), self: selfPort}}, b.backup, 0)
				set.Digest[way], set.Flow[way] = b.Seeds.Digest(f.Tuple), f
			}
		}
		b.must(b.Established.Put(index, set))
		b.must(b.EstablishedTags.Put(index, bpf.Tags(set.Digest)))
		other := n.at(n.self)
		other.peer = n.stranger
		handshake := b.answered(other, b.backup, 0)
		var handshakes bpf.DatapathFlowSet
		handshakes.Digest[0], handshakes.Flow[0] = b.Seeds.Digest(handshake.Tuple), handshake
		b.must(b.HalfOpen.Put(uint32(0), handshakes))
		b.must(b.HalfOpenTags.Put(uint32(0), bpf.Tags(handshakes.Digest)))
		b.run(ingress(b.backup, other.in(b.backup, finalAck)), establishes(handshake, finalAck))
		b.wantAnswered(n, false)
	})
}
