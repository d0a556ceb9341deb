// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"
	"unsafe"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

// Kinds of events.
const (
	tracedIn   = uint8(bpf.DatapathTraceKindTRACE_IN)
	tracedOut  = uint8(bpf.DatapathTraceKindTRACE_OUT)
	tracedLeft = uint8(bpf.DatapathTraceKindTRACE_LEFT)

	noTable = uint8(bpf.DatapathTableTABLE_END)
)

var traceReply = map[string]messageStory{
	"that a moved packet leaves is told of as well": func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		frame := b.handOver(n, m)
		moved := of(n.outgoing(m, b.production, b.replication, frame), m, b.replication)
		tracer.want(moved)

		b.run(arrive(b.replication, frame, 1), b.corrected(n, m, frame, true))
		tracer.want(bpf.DatapathTraceEvent{Kind: tracedLeft, Ifindex: b.replication.Index})

		b.exec(egress(b.production, n.out(b.production, m)))
		b.exec(egress(b.production, n.out(b.production, m)))
		tracer.want(moved, moved)
	},
	"why a reply is left where it is": func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		b.switchMode(modeObserve)
		b.wantStays(n, m, outcomeObserve)
		tracer.read()
		tracer.wantPassed(n, m, b.production, true, outcomeObserve)
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		tracer.wantPassed(n, m, b.production, true, outcomeLinkDown)
		tracer.wantPassed(n, m, b.replication, true, 0) // what the next packet is told of is its own
	},
	"moved to a device without an Ethernet header, it has no MAC": func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= noHeader })
		b.setHandover(bpf.DatapathHandover{Frame: [14]uint8{1, 2, 3, 4, 5, 6}})
		frame := n.out(b.production, m)
		b.exec(egress(b.production, frame))
		moved := n.outgoing(m, b.production, b.replication, frame)
		moved.Mac = [6]uint8{}
		tracer.want(of(moved, m, b.replication))
	},
}

func TestTraceReply(t *testing.T) { tell(t, eachReply, traceReply) }

var traceFamily = map[string]story{
	"what becomes several packets on the wire is told of once": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		m := tcp{flags: "A", payload: 2900}
		b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
		r := egress(b.replication, n.out(b.replication, m))
		r.gsoSize, r.gsoSegs = 1000, 3
		b.exec(r)
		event := of(n.outgoing(m, b.replication, b.replication, r.frame), m, b.replication)
		event.Packets = 3
		tracer.want(event)
	},
	"what belongs to no flow, or to one that counts as none": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		for _, m := range []message{tcp{flags: "S"}, tcp{flags: "A"}, udp{}, echo{}, echo{reply: true}} {
			tracer.wantPassed(n, m, b.production, false, 0)
		}
		m := tcp{flags: "A", seq: 77} // no segment of the handshake
		b.put(halfOpen(b.flow(n, m, b.replication, 0)), connectionlessFlow(b.flow(n, udp{}, b.replication, idleConnectionless+1)))
		tracer.wantPassed(n, m, b.production, false, 0)
		tracer.wantPassed(n, udp{}, b.production, false, 0)
	},
	"what the recording did": func(t *testing.T, b *bed, n network) {
		bit := func(events ...bpf.DatapathEvent) (mask uint64) {
			for _, event := range events {
				mask |= 1 << event
			}
			return mask
		}
		tracer := b.traceAll()
		see := func(m message, via nic, change func(*bpf.DatapathTraceEvent), edits ...edit) {
			t.Helper()
			frame := n.in(via, m, edits...)
			b.exec(ingress(via, frame))
			want := n.incoming(m, via, frame)
			change(&want)
			tracer.want(want)
		}
		inTable := func(table bpf.DatapathTable, via nic, events ...bpf.DatapathEvent) func(*bpf.DatapathTraceEvent) {
			return func(e *bpf.DatapathTraceEvent) {
				e.Table, e.FlowIfindex, e.Counted = uint8(table), via.Index, bit(events...)
			}
		}
		const connectionless, half = tableConnectionless, tableHalfOpen
		see(udp{}, b.replication, inTable(connectionless, b.replication, eventAdmittedConnectionless))
		see(udp{}, b.replication, inTable(connectionless, b.replication))
		see(udp{}, b.backup, inTable(connectionless, b.replication, bpf.DatapathEventEVENT_REFUSED_CONTESTED))
		see(tcp{flags: "S"}, b.replication, inTable(half, b.replication, eventAdmittedHalfOpen))
		see(echo{}, b.replication, inTable(connectionless, b.replication, eventAdmittedConnectionless))

		flow := b.flow(n, udp{}, b.replication, 20)
		b.contend(&flow, b.backup, 2, 10)
		b.put(connectionlessFlow(flow))
		see(udp{}, b.backup, inTable(connectionless, b.backup, eventMoved+bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_UDP)))
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		see(tcp{flags: "A"}, b.replication, inTable(tableEstablished, b.replication))

		b.put()
		see(echo{reply: true}, b.replication, func(*bpf.DatapathTraceEvent) {})
		see(tcp{flags: "SA"}, b.replication, inTable(half, b.replication, eventIgnoredNoSocket))
		see(udp{}, b.replication, func(e *bpf.DatapathTraceEvent) {
			e.Counted, e.Tuple.Self = bit(eventIgnoredNotOwn), n.stranger.As16()
		}, destination(n.stranger))
	},
	"only what was asked for, and only for as long": func(t *testing.T, b *bed, n network) {
		none, other := netip.Prefix{}, prefix(n.stranger)
		network := netip.PrefixFrom(n.peer, n.peer.BitLen()-8).Masked()
		tracer := b.traceAll()
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		for _, test := range []struct {
			name       string
			peer, self netip.Prefix
			ticks      uint32
			events     int
		}{
			{"all", none, none, 100, 4},
			{"peer", prefix(n.peer), none, 100, 4},
			{"peer's network", network, none, 100, 4},
			{"self", none, prefix(n.self), 100, 4},
			{"both", network, prefix(n.self), 100, 4},
			{"another peer", other, none, 100, 0},
			{"another self", none, other, 100, 0},
			{"peer, another self", prefix(n.peer), other, 100, 0},
		} {
			tracer.ask(test.peer, test.self, test.ticks)
			b.exec(ingress(b.replication, n.in(b.replication, udp{})))
			b.exec(egress(b.replication, n.out(b.replication, udp{})))
			r := egress(b.production, n.out(b.production, udp{}))
			r.probe.TCIndex = 0x4321
			_, frame, out := b.exec(r)
			b.exec(arrive(b.replication, frame, rig.ReadProbed(&out).TCIndex))
			await.Same(t, test.name+": events", test.events, len(tracer.read()))
		}
	},
	"a tracer that was killed costs nothing after a moment": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		for _, run := range []run{
			ingress(b.replication, n.in(b.replication, udp{})),
			egress(b.replication, n.out(b.replication, udp{})),
		} {
			tracer.ask(netip.Prefix{}, netip.Prefix{}, 0)
			b.exec(run)
			tracer.want()
			var request bpf.DatapathTraceRequest
			b.must(b.TraceFilter.Get(&request))
			await.Same(t, run.program+": end of the filter", 0, request.Until)
		}
	},
	"what finds no room is counted, and the packet goes its way": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		frames := uint64(b.TraceEvents.MaxEntries()/uint32(unsafe.Sizeof(bpf.DatapathTraceEvent{}))) + 10
		for range frames {
			b.exec(egress(b.replication, n.out(b.replication, udp{})))
		}
		lost := tracer.lost()
		seen := uint64(len(tracer.read()))
		if lost == 0 || lost+seen != frames {
			t.Errorf("%d of %d packets were seen, %d lost", seen, frames, lost)
		}
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0))) // anew: to take the room may take a second
		b.wantMoved(n, udp{})
		await.Same(t, "events once there is room again", 1, len(tracer.read()))
	},
	// What is not told goes as routed.
	"what is too large comes back to its sender": func(t *testing.T, b *bed, n network) {
		b.limit(b.replication, narrowMTU)
		tracer := b.traceAll()
		m := udp{payload: 1400}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.tells(n, m, b.production, b.replication, frame, frame))
		returned := of(n.outgoing(m, b.production, b.production, nil), m, b.replication)
		returned.Packets, returned.Outcome, returned.OutIfindex = 0, uint8(outcomeMTU), 0
		tracer.want(returned)

		tracer.wantPassed(n, m, b.production, true, outcomeMTU)

		tracer.wantPassed(n, m, b.replication, true, 0)

		tracer.ask(prefix(n.stranger), netip.Prefix{}, 100)
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		b.exec(egress(b.production, n.out(b.production, m)))
		tracer.want()
	},
	"a later fragment as well": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		frames := n.inPieces(b.production, 1)
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.exec(egress(b.production, frames.first))
		b.exec(egress(b.production, frames.later))
		told := tracer.read()
		if len(told) != 2 {
			t.Fatalf("%d events", len(told))
		}
		for i, form := range []bpf.DatapathTraceForm{bpf.DatapathTraceFormTRACE_PACKET, bpf.DatapathTraceFormTRACE_FRAGMENT} {
			e := told[i]
			if e.OutIfindex != b.replication.Index || e.Form != uint8(form) || e.Tuple != n.tuple(udp{}) || e.FlowIfindex != b.replication.Index {
				t.Errorf("fragment %d: %+v", i, e)
			}
		}
	},
	"what other programs count on this CPU is not the next packet's": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		b.exec(fallback(b.production, n.out(b.production, udp{})))
		frame := n.in(b.replication, echo{reply: true})
		b.exec(ingress(b.replication, frame))
		tracer.want(n.incoming(echo{reply: true}, b.replication, frame))
	},
	"an idle flow is none": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		m := udp{}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, idleConnectionless+1)))
		b.exclude(rig.Exclusion(prefix(n.peer), netip.Prefix{}, 0, 0))
		frame := n.in(b.replication, m)
		b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_EXCLUDED))
		want := n.incoming(m, b.replication, frame)
		want.Counted = 1 << bpf.DatapathEventEVENT_IGNORED_EXCLUDED
		tracer.want(want)
	},
}

func TestTraceFamily(t *testing.T) { tell(t, eachFamily, traceFamily) }

func TestTraceReaddressed(t *testing.T) {
	eachEnforced(t, func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		frame := n.out(b.replication, m, destinationMAC(neighbour))
		b.run(egress(b.replication, frame), b.readdresses(n, m, b.replication, frame))
		event := of(n.outgoing(m, b.replication, b.replication, frame), m, b.replication)
		event.Outcome, event.KernelMac = uint8(outcomeCorrected), rig.MAC(neighbour)
		tracer.want(event)
		// Right already.
		tracer.wantPassed(n, m, b.replication, true, 0)
	})
}

// TestTraceL3: devices without an Ethernet header have no MACs to tell.
func TestTraceL3(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		in := ingressL3(b.replication, n.in(b.replication, udp{}))
		b.exec(in)
		want := n.event(tracedIn, udp{}, b.replication, in.frame)
		want.Table, want.FlowIfindex = uint8(tableConnectionless), b.replication.Index
		want.Counted = 1 << eventAdmittedConnectionless
		tracer.want(want)

		out := egressL3(b.replication, n.out(b.replication, udp{}))
		b.exec(out)
		want = of(n.event(tracedOut, udp{}, b.replication, out.frame), udp{}, b.replication)
		want.OutIfindex = b.replication.Index
		tracer.want(want)
	})
}

// TestTraceError: an ICMP error is told of as part of the flow that it is about.
func TestTraceError(t *testing.T) {
	eachQuoted(t, func(t *testing.T, b *bed, n network, m message, put func(bpf.DatapathFlow)) {
		tracer := b.traceAll()
		e := b.about(n, m)
		frame := n.out(b.production, e)
		b.exec(egress(b.production, frame))
		told := tracer.read()
		if len(told) != 1 || told[0].Form != uint8(bpf.DatapathTraceFormTRACE_ERROR) || told[0].FlowIfindex != 0 {
			t.Errorf("an error about no flow: %+v", told)
		}
		put(b.flow(n, m, b.replication, 0))
		b.exec(egress(b.production, frame))
		told = tracer.read()
		if len(told) != 1 {
			t.Fatalf("%d events", len(told))
		}
		got, want := told[0], told[0]
		want.Kind, want.Form, want.Tuple = tracedOut, uint8(bpf.DatapathTraceFormTRACE_ERROR), n.tuple(m)
		want.Ifindex, want.FlowIfindex, want.OutIfindex = b.production.Index, b.replication.Index, b.replication.Index
		await.Same(t, "an error about a flow", want, got)
	})
}
