// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

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
	b.ownStrong(n)
	b.opens(n)
	b.arrives(n, reaction, b.refreshesNote(n))
	b.wantAnswered(n, true)
}

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

// wantCounted checks how many packets of the connection were moved, together.
func (b *bed) wantCounted(n network, want uint64) {
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

func (b *bed) changeEntry(n network, change func(*bpf.DatapathFlow)) {
	b.t.Helper()
	digest := b.Seeds.Digest(n.tuple(segment))
	index, _ := bpf.Sets(digest, b.Established.MaxEntries())
	var set bpf.DatapathFlowSet
	b.must(b.Established.Lookup(index, &set))
	change(&set.Flow[slices.Index(set.Digest[:], digest)])
	b.must(b.Established.Put(index, set))
}

// TestAnswered: segments of an answered connection are moved and counted as before. The record has what was moved
// before, the entry the rest.
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
		b.arrives(n, reaction, nothing)
		b.wantCounted(n, 3)
		if record, entry := b.record(n, segment), b.answeredEntry(n); record.Moved != 1 || entry.Corrected != 2 {
			t.Errorf("the record has %d packets, the entry %d", record.Moved, entry.Corrected)
		}

		// A second later the next answer enters it anew: the record has it all.
		b.changeEntry(n, func(f *bpf.DatapathFlow) { f.Seen -= b.Seconds(1) })
		b.ageNotes(1)
		b.arrives(n, reaction, b.refreshesNote(n))
		if record, entry := b.record(n, segment), b.answeredEntry(n); record.Moved != 3 || entry == nil || entry.Corrected != 0 {
			t.Errorf("anew: the record has %+v, the entry %+v", record, entry)
		}
	})
}

// TestAnsweredNotEntered: what is not certain is left to the record.
func TestAnsweredNotEntered(t *testing.T) {
	record := func(change func(*bpf.DatapathOriginatedTuple)) setup {
		return func(b *bed, n network) {
			record := b.record(n, segment)
			change(record)
			b.must(b.SetRecord(n.tuple(segment), *record))
		}
	}
	sent := func(m tcp) setup { return func(b *bed, n network) { b.moveBySource(n, m) } }
	// The tables are written anew: what is noted of the connection is kept.
	beside := func(change func(*bed, network) func(tables)) setup {
		return func(b *bed, n network) { b.put(b.sent(n, segment, 1), change(b, n)) }
	}
	for name, change := range map[string]setup{
		"the answer comes by another interface": nil,
		"something changed that decides":        func(b *bed, _ network) { b.outdate() },
		"it is not told what decides": func(b *bed, n network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Ways = 0 })
			b.moveBySource(n, segment)
		},
		"weak by now":           func(b *bed, _ network) { b.manage(b.replication, nil) },
		"the interface is gone": func(b *bed, _ network) { b.setInterface(b.replication, bpf.DatapathInterface{}) },
		"the last packet was not seen leaving": func(b *bed, n network) {
			b.switchMode(modeObserve)
			b.exec(egress(b.production, n.out(b.production, segment)))
		},
		"no record":        func(b *bed, n network) { b.must(b.DeleteRecord(n.tuple(segment))) },
		"another's record": record(func(r *bpf.DatapathOriginatedTuple) { r.Tuple.PeerPort++ }),
		"the peer opens the next one": beside(func(b *bed, n network) func(tables) {
			return halfOpen(b.flow(n, syn, b.replication, 0))
		}),
		"in the nursery": beside(func(b *bed, n network) func(tables) {
			return youngHandshake(b.flow(n, syn, b.replication, 0))
		}),
		"closed by the host":                       sent(tcp{flags: "FA", seq: 3}),
		"reset by the host":                        sent(tcp{flags: "R", seq: 3}),
		"decided by no managed interface's choice": record(func(r *bpf.DatapathOriginatedTuple) { r.From = 0 }),
		"a crowded set": beside(func(b *bed, n network) func(tables) {
			return func(t tables) {
				for i := range uint16(bpf.DatapathWaysCROWDED) {
					establishedFlow(b.flow(n, tcp{ports: ports{peer: peerPort + 100 + i, self: selfPort}}, b.backup, 0))(t)
				}
			}
		}),
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			via := either(change == nil, b.backup, b.replication)
			b.ownStrong(n)
			b.opens(n)
			change.on(b, n)
			b.exec(ingress(via, n.in(via, reaction)))
			b.wantAnswered(n, false)
		})
	}
}

// TestAnsweredEnds: what the entry does not tell ends it. The packet goes as without, and nothing that was counted is lost.
func TestAnsweredEnds(t *testing.T) {
	entry := func(change func(*bed, *bpf.DatapathFlow)) setup {
		return func(b *bed, n network) { b.changeEntry(n, func(f *bpf.DatapathFlow) { change(b, f) }) }
	}
	for _, test := range []struct {
		name   string
		change setup
		sends  *tcp        // nil: segment
		edit   edit        // of the frame
		extend []extension // by IPv6
		by     way
	}{
		{name: "something changed that decides", change: func(b *bed, _ network) { b.outdate() }, by: byGateway},
		{name: "no answer for two seconds", by: byGateway, change: entry(func(b *bed, f *bpf.DatapathFlow) { f.Seen -= b.Seconds(3) })},
		{name: "the kernel chooses another interface", by: byGateway, change: entry(func(b *bed, f *bpf.DatapathFlow) {
			b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Flags |= noHeader }) // so that no MAC tells
			f.SndNxt = uint32(b.backup.interfaceIndex)
		})},
		{name: "the kernel's choice is no interface", by: byGateway, change: entry(func(_ *bed, f *bpf.DatapathFlow) { f.SndNxt = 1 << 20 })},
		{name: "FIN", sends: &tcp{flags: "FA", seq: 3}, by: byGateway},
		{name: "RST", sends: &tcp{flags: "R", seq: 3}, by: byGateway},
		{name: "the first fragment", by: byGateway, extend: []extension{first}, edit: func(h *headers) {
			if h.v4 != nil {
				h.v4.Flags = layers.IPv4MoreFragments
			}
		}},
		{name: "for a group", by: uncounted, edit: destinationMAC(layers.EthernetBroadcast)},
		{name: "a guest's frame", by: uncounted, edit: sourceMAC(neighbour)},
		{name: "weak by now", by: asRouted(weakHost, 1), change: func(b *bed, _ network) { b.manage(b.replication, nil) }},
		{name: "the interface is gone", by: asRouted(outcomeLinkDown, 1), change: func(b *bed, _ network) {
			b.setInterface(b.replication, bpf.DatapathInterface{})
		}},
		{name: "observing", by: asRouted(outcomeObserve, 1), change: func(b *bed, _ network) { b.switchMode(modeObserve) }},
		{name: "link down", by: asRouted(outcomeLinkDown, 1), change: func(b *bed, _ network) { b.cutCable(b.replication) }},
		{name: "the gateway has no MAC any more", by: asRouted(noNextHop, 1), change: noGatewayMAC},
		{name: "nor may another take its place", by: asRouted(noNextHop, 1), change: func(b *bed, n network) {
			b.addGateway(b.replication, n, secondGateway, secondRouter)
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) {
				r.NextHop, r.Gateway4, r.Gateway6 = uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY), secondGateway, secondGateway
			})
			noGatewayMAC(b, n)
		}},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.answeredHere(n)
			b.moveBySource(n, segment)
			b.must(b.ForgetHandover())
			m := segment
			if test.sends != nil {
				m = *test.sends
			}
			test.change.on(b, n)
			edits := []edit{}
			if test.edit != nil {
				edits = append(edits, test.edit)
			}
			frame := n.out(b.production, m, edits...)
			if n.family == 6 && test.extend != nil {
				frame = extend(frame, test.extend...)
			}
			b.run(egress(b.production, frame), test.by(b, n, m, frame))
			b.wantAnswered(n, false)
			b.wantCounted(n, 2)
		})
	}
}

// TestAnsweredEndsByAnswer: an answer that is not the next one by the way of those before ends the entry. One by another
// interface or from another MAC does, and any after a second.
func TestAnsweredEndsByAnswer(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, answer := range []run{
			ingress(b.backup, n.in(b.backup, reaction)),
			ingress(b.replication, n.in(b.replication, reaction, sourceMAC(secondRouter))),
		} {
			b.answeredHere(n)
			b.run(answer, nothing)
			b.wantAnswered(n, false)
		}
	})
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.changeEntry(n, func(f *bpf.DatapathFlow) { f.Seen -= b.Seconds(1) })
		b.arrives(n, reaction, nothing) // the note is not due
		b.wantAnswered(n, false)
		b.wantCounted(n, 1)
	})
}

// TestAnsweredNextConnection: the next connection of the tuple ends the entry, whoever opens it.
func TestAnsweredNextConnection(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.moveBySource(n, segment)
		b.moveBySource(n, syn)
		b.wantAnswered(n, false)
		b.wantCounted(n, 3)
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

var answeredFamily = map[string]story{
	"what the host has closed is not entered again": func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.moveBySource(n, tcp{flags: "FA", seq: 3})
		b.ageNotes(1)
		b.exec(ingress(b.replication, n.in(b.replication, reaction)))
		b.wantAnswered(n, false)
		b.opens(n)
		b.exec(ingress(b.replication, n.in(b.replication, reaction)))
		b.wantAnswered(n, true)
	},
	"what the entry takes keeps the record in use": func(t *testing.T, b *bed, n network) {
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
	},
	"what ends between the move and the target counts in the record": func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.must(b.ForgetHandover())
		_, moved, _ := b.exec(egress(b.production, n.out(b.production, segment)))
		b.exec(ingress(b.backup, n.in(b.backup, reaction)))
		b.wantAnswered(n, false)
		b.run(arrive(b.replication, moved, 1), effect{
			pairs: pairs{b.originated(n, segment, corrected): {Packets: 1, Bytes: uint64(len(moved))}},
		})
		b.wantCounted(n, 2)
	},
	"the kernel's choice has no MAC that tells whose frame it is": func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.manage(b.production, func(r *bpf.DatapathInterface) { r.Flags |= noHeader })
		b.leaves(n, segment, byGateway(b, n, segment, n.out(b.production, segment)), sourceMAC(neighbour))
		b.wantAnswered(n, true)
	},
	"the sender is told of the size, and the tracer of that": func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU; r.Flags |= narrow })
		tracer := b.traceAll()
		m := tcp{flags: "PA", seq: 3, payload: 1380}
		frame := n.out(b.production, m)
		verdict, _, _ := b.exec(egress(b.production, frame))
		record := b.record(n, m)
		if verdict != redirect || record.Told == 0 || bpf.DatapathOutcome(record.Outcome) != outcomeMTU {
			t.Errorf("verdict %d, what is kept: %+v", verdict, record)
		}
		b.wantAnswered(n, false)
		events := tracer.read()
		if len(events) != 1 || events[0].Kind != uint8(bpf.DatapathTraceKindTRACE_RETURNED) || events[0].Tuple != n.tuple(m) ||
			events[0].Table != uint8(tableOriginated) || events[0].FlowIfindex != b.replication.Index {
			t.Errorf("traced: %+v", events)
		}
		b.leavesBy(n, m, asRouted(outcomeMTU, 0))
	},
	"a tracer sees that the source decided, and that an answer is of no flow": func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		tracer := b.traceAll()
		b.moveBySource(n, segment)
		b.exec(ingress(b.replication, n.in(b.replication, reaction)))
		events := tracer.read()
		if len(events) != 3 {
			t.Fatalf("traced: %+v", events)
		}
		moved, leaving, in := events[0], events[1], events[2]
		if moved.Kind != tracedMove || moved.Table != uint8(tableOriginated) || moved.FlowIfindex != b.replication.Index ||
			moved.Tuple != n.tuple(segment) {
			t.Errorf("traced as moved: %+v", moved)
		}
		if leaving.Kind != tracedLeaving || in.Kind != tracedIn || in.Table != noTable || in.FlowIfindex != 0 {
			t.Errorf("traced then: %+v, %+v", leaving, in)
		}
		b.exec(ingress(b.backup, n.in(b.backup, syn)))
		events = tracer.read()
		if len(events) != 1 || events[0].Table != uint8(tableHalfOpen) || events[0].FlowIfindex != b.backup.Index {
			t.Errorf("a handshake of the tuple is traced as %+v", events)
		}
	},
	"what was moved and never seen leaving is lost, whoever decided": func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.must(b.ForgetHandover())
		b.leavesBy(n, segment, byGateway)
		frame := n.out(b.production, segment)
		want := byGateway(b, n, segment, frame)
		want.pairs = pairs{pair(b.production, b.replication, n, segment, outcomeLost): {Packets: 1, Bytes: uint64(len(frame))}}
		b.leaves(n, segment, want)
	},
	"nothing else heeds the entry, and it makes room": func(t *testing.T, b *bed, n network) {
		b.answeredHere(n)
		b.exec(egress(b.production, n.out(b.production, b.about(n, segment))))
		if record := b.record(n, segment); record.Moved != 1 || b.answeredEntry(n).Corrected != 0 {
			t.Errorf("an error counts as a segment: %+v", record)
		}
		// A handshake of another tuple takes its way where the set is full.
		for i := range uint16(ways - 1) {
			b.must(b.AddFlow(b.Established, b.flow(n, tcp{ports: ports{peer: peerPort + 100 + i, self: selfPort}}, b.backup, 0)))
		}
		other := newcomer(n)
		handshake := b.answered(other, b.backup, 0)
		b.must(b.AddFlow(b.HalfOpen, handshake))
		b.run(ingress(b.backup, other.in(b.backup, finalAck)), establishes(handshake, finalAck))
		b.wantAnswered(n, false)
	},
}

func TestAnsweredFamily(t *testing.T) { tell(t, eachFamily, answeredFamily) }
