// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// Kinds of events.
const (
	tracedIn      = uint8(bpf.DatapathTraceKindTRACE_INBOUND)
	tracedPass    = uint8(bpf.DatapathTraceKindTRACE_PASSED)
	tracedMove    = uint8(bpf.DatapathTraceKindTRACE_MOVED)
	tracedLeaving = uint8(bpf.DatapathTraceKindTRACE_LEAVING)

	noTable = uint8(bpf.DatapathTableTABLE_END)
)

// TestTraceMoved: a moved packet and its leaving have one number, the next packet
// another; all else is as without a tracer.
func TestTraceMoved(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		frame := b.handOver(n, m)
		moved := of(n.outgoing(tracedMove, m, b.production, frame, b.production.router, b.replication.router, 1), m, b.replication)
		tracer.want(moved)

		b.run(arrive(b.replication, frame, 1), b.corrected(n, m, frame, true))
		leaving := bpf.DatapathTraceEvent{
			Kind: tracedLeaving, Sequence: 1, Ifindex: b.replication.Index, Length: uint32(len(frame)), Table: noTable,
		}
		tracer.want(leaving)

		b.exec(egress(b.production, n.out(b.production, m)))
		b.exec(egress(b.production, n.out(b.production, m)))
		moved.Sequence = 2
		second := moved
		second.Sequence = 3
		tracer.want(moved, second)
	})
}

// TestTraceGSO: what becomes several packets on the wire is told of once.
func TestTraceGSO(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		m := tcp{flags: "A", payload: 2900}
		b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
		r := egress(b.replication, n.out(b.replication, m))
		r.gsoSize, r.gsoSegs = 1000, 3
		b.exec(r)
		router := b.replication.router
		event := of(n.outgoing(tracedPass, m, b.replication, r.frame, router, router, 1), m, b.replication)
		event.Packets = 3
		tracer.want(event)
	})
}

func TestTracePassed(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		frame := n.out(b.replication, m)
		b.run(egress(b.replication, frame), nothing)
		router := b.replication.router
		tracer.want(of(n.outgoing(tracedPass, m, b.replication, frame, router, router, 1), m, b.replication))
	})
}

// TestTraceReason: why a reply is left where it is.
func TestTraceReason(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		for i, test := range []struct {
			change func(*bpf.DatapathInterface)
			reason bpf.DatapathOutcome
		}{
			{func(r *bpf.DatapathInterface) { r.Flags = 0 }, bpf.DatapathOutcomeOUTCOME_LINK_DOWN},
			{func(r *bpf.DatapathInterface) { r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE) }, bpf.DatapathOutcomeOUTCOME_OBSERVE},
		} {
			b.manage(b.replication, test.change)
			frame := n.out(b.production, m)
			b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
			b.run(egress(b.production, frame), b.stays(n, m, b.production, b.replication, frame, test.reason))
			router := b.production.router
			event := of(n.outgoing(tracedPass, m, b.production, frame, router, router, uint32(i)+1), m, b.replication)
			event.Outcome = uint8(test.reason)
			tracer.want(event)
		}
		// What the next packet is told of is its own.
		frame := n.out(b.replication, m)
		b.exec(egress(b.replication, frame))
		router := b.replication.router
		tracer.want(of(n.outgoing(tracedPass, m, b.replication, frame, router, router, 3), m, b.replication))
	})
}

// TestTraceOriginated: what the strong host model moves names the interface, what goes as routed the reason.
func TestTraceOriginated(t *testing.T) {
	const table = uint8(bpf.DatapathTableTABLE_ORIGINATED)
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		frame, router := n.out(b.production, m), b.production.router
		b.exec(egress(b.production, frame))
		moved := n.outgoing(tracedMove, m, b.production, frame, router, b.replication.router, 1)
		moved.Table, moved.FlowIfindex = table, b.replication.Index
		tracer.want(moved)
		b.manage(b.replication, nil)
		b.exec(egress(b.production, frame))
		routed := n.outgoing(tracedPass, m, b.production, frame, router, router, 2)
		routed.Table, routed.Outcome = table, uint8(weakHost)
		tracer.want(routed)
	})
}

func TestTraceReaddressed(t *testing.T) {
	eachEnforced(t, func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		frame := n.out(b.replication, m, destinationMAC(neighbour))
		b.run(egress(b.replication, frame), b.readdresses(n, m, b.replication, frame))
		event := of(n.outgoing(tracedPass, m, b.replication, frame, neighbour, b.replication.router, 1), m, b.replication)
		event.Outcome = uint8(bpf.DatapathOutcomeOUTCOME_CORRECTED)
		tracer.want(event)
		// Right already.
		frame = n.out(b.replication, m)
		b.exec(egress(b.replication, frame))
		router := b.replication.router
		tracer.want(of(n.outgoing(tracedPass, m, b.replication, frame, router, router, 2), m, b.replication))
	})
}

// TestTraceNoFlow: what belongs to no flow, or to one that counts as none.
func TestTraceNoFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		router := b.production.router
		for i, m := range []message{tcp{flags: "S"}, tcp{flags: "A"}, udp{}, echo{}, echo{reply: true}} {
			frame := n.out(b.production, m)
			b.exec(egress(b.production, frame))
			tracer.want(n.outgoing(tracedPass, m, b.production, frame, router, router, uint32(i)+1))
		}
		// Half-open, but no segment of the handshake.
		m := tcp{flags: "A", seq: 77}
		b.put(halfOpen(b.flow(n, m, b.replication, 0)))
		frame := n.out(b.production, m)
		b.exec(egress(b.production, frame))
		tracer.want(n.outgoing(tracedPass, m, b.production, frame, router, router, 6))
		// Idle.
		idle := uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS) + 1
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, idle)))
		frame = n.out(b.production, udp{})
		b.exec(egress(b.production, frame))
		tracer.want(n.outgoing(tracedPass, udp{}, b.production, frame, router, router, 7))
	})
}

// TestTraceInbound: what the recording did.
func TestTraceInbound(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		bit := func(events ...bpf.DatapathEvent) (mask uint64) {
			for _, event := range events {
				mask |= 1 << event
			}
			return mask
		}
		tracer := b.traceAll()
		incoming := func(m message, via nic, frame []byte) bpf.DatapathTraceEvent {
			e := n.event(tracedIn, m, via, frame)
			e.Mac = rig.MAC(via.router)
			return e
		}
		see := func(m message, via nic, change func(*bpf.DatapathTraceEvent), edits ...edit) {
			t.Helper()
			frame := n.in(via, m, edits...)
			b.exec(ingress(via, frame))
			want := incoming(m, via, frame)
			change(&want)
			tracer.want(want)
		}
		inTable := func(table bpf.DatapathTable, via nic, events ...bpf.DatapathEvent) func(*bpf.DatapathTraceEvent) {
			return func(e *bpf.DatapathTraceEvent) {
				e.Table, e.FlowIfindex, e.Counted = uint8(table), via.Index, bit(events...)
			}
		}
		const connectionless, half = bpf.DatapathTableTABLE_CONNECTIONLESS, bpf.DatapathTableTABLE_HALF_OPEN
		see(udp{}, b.replication, inTable(connectionless, b.replication, bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS))
		see(udp{}, b.replication, inTable(connectionless, b.replication))
		see(udp{}, b.backup, inTable(connectionless, b.replication, bpf.DatapathEventEVENT_REFUSED_CONTESTED))
		see(tcp{flags: "S"}, b.replication, inTable(half, b.replication, bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN))
		see(echo{}, b.replication, inTable(connectionless, b.replication, bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS))

		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 2)))
		see(udp{}, b.backup, inTable(connectionless, b.backup, bpf.DatapathEventEVENT_MOVED+bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_UDP)))
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		see(tcp{flags: "A"}, b.replication, inTable(bpf.DatapathTableTABLE_ESTABLISHED, b.replication))

		b.put()
		see(echo{reply: true}, b.replication, func(*bpf.DatapathTraceEvent) {})
		see(tcp{flags: "SA"}, b.replication, inTable(half, b.replication, bpf.DatapathEventEVENT_IGNORED_NO_SOCKET))
		see(udp{}, b.replication, func(e *bpf.DatapathTraceEvent) {
			e.Counted, e.Tuple.Self = bit(bpf.DatapathEventEVENT_IGNORED_NOT_OWN), n.stranger.As16()
		}, destination(n.stranger))
	})
}

// TestTraceFilter: only what was asked for, and only for as long.
func TestTraceFilter(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
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
			if got := len(tracer.read()); got != test.events {
				t.Errorf("%s: %d events, want %d", test.name, got, test.events)
			}
		}
	})
}

// TestTraceExpires: a tracer that was killed costs nothing after a moment.
func TestTraceExpires(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		for _, run := range []run{
			ingress(b.replication, n.in(b.replication, udp{})),
			egress(b.replication, n.out(b.replication, udp{})),
		} {
			tracer.ask(netip.Prefix{}, netip.Prefix{}, 0)
			b.exec(run)
			tracer.want()
			var request bpf.DatapathTraceRequest
			b.must(b.TraceFilter.Lookup(uint32(0), &request))
			if request.Until != 0 {
				t.Errorf("%s: the filter still holds", run.program)
			}
		}
	})
}

// TestTraceLost: what finds no room is counted, and the packet goes its way.
func TestTraceLost(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		frames := uint64(b.TraceEvents.MaxEntries()/96) + 10
		for range frames {
			b.exec(egress(b.replication, n.out(b.replication, udp{})))
		}
		lost := tracer.lost()
		seen := uint64(len(tracer.read()))
		if lost == 0 || lost+seen != frames {
			t.Errorf("%d of %d packets were seen, %d lost", seen, frames, lost)
		}
		frame := n.out(b.production, udp{})
		b.run(egress(b.production, frame), b.moves(n, udp{}, b.production, b.replication, frame))
		if got := len(tracer.read()); got != 1 {
			t.Errorf("with room again %d events", got)
		}
	})
}

// TestTraceRewriteFailed: what was to be moved and could not be is told of twice,
// with one number.
func TestTraceRewriteFailed(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		m := udp{}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		slots := make([]bpf.DatapathTraceSlot, ebpf.MustPossibleCPU())
		for i := range slots {
			slots[i] = bpf.DatapathTraceSlot{Sequence: 7, Outcome: uint8(bpf.DatapathOutcomeOUTCOME_REWRITE_FAILED)}
		}
		b.must(b.TraceSlots.Put(uint32(0), slots))
		frame := n.out(b.replication, m)
		b.exec(egress(b.replication, frame))
		router := b.replication.router
		event := of(n.outgoing(tracedPass, m, b.replication, frame, router, router, 7), m, b.replication)
		event.Outcome = uint8(bpf.DatapathOutcomeOUTCOME_REWRITE_FAILED)
		tracer.want(event)
	})
}

// TestTraceL3: devices without an Ethernet header have no MACs to tell.
func TestTraceL3(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		in := ingressL3(b.replication, n.in(b.replication, udp{}))
		b.exec(in)
		want := n.event(tracedIn, udp{}, b.replication, in.frame)
		want.Table, want.FlowIfindex = uint8(bpf.DatapathTableTABLE_CONNECTIONLESS), b.replication.Index
		want.Counted = 1 << bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS
		tracer.want(want)

		out := egressL3(b.replication, n.out(b.replication, udp{}))
		b.exec(out)
		want = of(n.event(tracedPass, udp{}, b.replication, out.frame), udp{}, b.replication)
		want.Sequence = 1
		tracer.want(want)
	})
}

// TestTraceReturned: what is too large comes back to its sender, and is told of
// although nothing of it is left. What is not told goes as routed.
func TestTraceReturned(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.limit(narrowMTU)
		tracer := b.traceAll()
		m := udp{payload: 1400}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.tells(n, m, frame, n.stranger.AsSlice()))
		returned := of(n.event(uint8(bpf.DatapathTraceKindTRACE_RETURNED), m, b.production, nil), m, b.replication)
		returned.Packets, returned.Outcome, returned.Sequence = 0, uint8(bpf.DatapathOutcomeOUTCOME_MTU), 1
		tracer.want(returned)

		b.exec(egress(b.production, frame))
		router := b.production.router
		passed := of(n.outgoing(tracedPass, m, b.production, frame, router, router, 2), m, b.replication)
		passed.Outcome = uint8(bpf.DatapathOutcomeOUTCOME_MTU)
		tracer.want(passed)

		frame = n.out(b.replication, m)
		b.exec(egress(b.replication, frame))
		router = b.replication.router
		tracer.want(of(n.outgoing(tracedPass, m, b.replication, frame, router, router, 3), m, b.replication))

		tracer.ask(prefix(n.stranger), netip.Prefix{}, 100)
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		b.exec(egress(b.production, n.out(b.production, m)))
		tracer.want()
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
		want.Kind, want.Form, want.Tuple = tracedMove, uint8(bpf.DatapathTraceFormTRACE_ERROR), n.tuple(m)
		want.Ifindex, want.FlowIfindex = b.production.Index, b.replication.Index
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("an error about a flow (-want +got):\n%s", diff)
		}
	})
}

// TestTraceFragments: a later fragment as well.
func TestTraceFragments(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
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
			if e.Kind != tracedMove || e.Form != uint8(form) || e.Tuple != n.tuple(udp{}) || e.FlowIfindex != b.replication.Index {
				t.Errorf("fragment %d: %+v", i, e)
			}
		}
	})
}

// TestTraceBare: moved to a device without an Ethernet header, it has no MAC.
func TestTraceBare(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		tracer := b.traceAll()
		b.manage(b.replication, func(r *bpf.DatapathInterface) {
			r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
		})
		b.setHandover(bpf.DatapathHandover{Frame: [14]uint8{1, 2, 3, 4, 5, 6}})
		frame := n.out(b.production, m)
		b.exec(egress(b.production, frame))
		tracer.want(of(n.outgoing(tracedMove, m, b.production, frame, b.production.router, make(net.HardwareAddr, 6), 1), m, b.replication))
	})
}

// TestTraceOthersCount: what other programs count on this CPU is not the next packet's.
func TestTraceOthersCount(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		b.exec(fallback(b.production, n.out(b.production, udp{})))
		frame := n.in(b.replication, echo{reply: true})
		b.exec(ingress(b.replication, frame))
		want := n.event(tracedIn, echo{reply: true}, b.replication, frame)
		want.Mac = rig.MAC(b.replication.router)
		tracer.want(want)
	})
}
