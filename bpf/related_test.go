// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/test/await"
)

// control is of a connection that the peer has opened, and that goes on.
var control = tcp{flags: "PA", seq: peerISN + 100, ack: ourISN + 200, ports: ports{peer: peerPort + 9, self: selfPort + 9}}

// question is a datagram that is answered by another socket, or to another port.
var question = udp{ports: ports{peer: peerPort + 9, self: selfPort + 9}}

// ownRelated gives the replication interface its address, in the weak host model.
func (b *bed) ownRelated(n network) {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Related = 1 })
	b.own(n)
}

// relates has what the host originates go with the peer's connection by an interface, which is another's address maybe.
func (b *bed) relates(n network, via nic) {
	b.t.Helper()
	b.put(establishedFlow(b.flow(n, control, via, 0)))
	b.ownRelated(n)
	b.goesWith(n, control, tableEstablished)
}

func (b *bed) goesWith(n network, m message, table bpf.DatapathTable) {
	b.t.Helper()
	b.must(b.SetRecord(n.tuple(m), bpf.DatapathRecord{Flow: b.Seeds.Digest(n.tuple(m)), Table: uint8(table)}))
}

// changeFlow writes over the peer's connection.
func (b *bed) changeFlow(n network, change func(*bpf.DatapathFlow)) {
	b.t.Helper()
	flow := b.flow(n, control, b.replication, 0)
	change(&flow)
	b.put(establishedFlow(flow))
}

// wantWith checks with which flow goes what the host originates.
func (b *bed) wantWith(n network, m message) {
	b.t.Helper()
	var want, got uint64
	if m != nil {
		want = b.Seeds.Digest(n.tuple(m))
	}
	if record := b.record(n, control); record != nil {
		got = record.Flow
	}
	await.Same(b.t, "the flow that it goes with", want, got)
}

// TestRelatedOrNot: what it goes with has to go on, and to come by the interface of the address.
func TestRelatedOrNot(t *testing.T) {
	change := func(change func(*bpf.DatapathFlow)) setup {
		return func(b *bed, n network) { b.changeFlow(n, change) }
	}
	noGateway := func(b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= strong })
	}
	for _, test := range []struct {
		name   string
		change setup
		want   way
	}{
		{"it goes on", nil, byGateway},
		{"without the setting", func(b *bed, _ network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Related = 0 })
		}, asRouted(outcomeWeakHost, 1)},
		{"strong, and no gateway is known", noGateway, byGateway},
		{"strong, and a gateway is known", func(b *bed, n network) {
			b.addGateway(b.replication, n, secondGateway, secondRouter)
			b.strongWith(secondGateway, secondGateway, 0)
		}, bySecond},
		{"it is forgotten", func(b *bed, _ network) { b.put() }, asRouted(outcomeWeakHost, 1)},
		{"its digest is of other addresses", func(b *bed, n network) {
			b.goesWith(n, control, tableEstablished)
			other := n.at(n.other)
			b.put(establishedFlow(b.flow(other, control, b.replication, 0)))
			b.must(b.SetRecord(n.tuple(control), bpf.DatapathRecord{
				Flow: b.Seeds.Digest(other.tuple(control)), Table: uint8(tableEstablished),
			}))
		}, asRouted(outcomeWeakHost, 1)},
		{"to the MAC of its frames", change(func(f *bpf.DatapathFlow) {
			f.Gateway, f.Flags = 0, 0
			copy(f.Mac[:], secondRouter)
		}), bySecond},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.relates(n, b.replication)
			test.change.on(b, n)
			b.leavesBy(n, segment, test.want)
		})
	}
}

// TestRelatedBy: what proves by which way a peer comes.
func TestRelatedBy(t *testing.T) {
	old := func(m message, state uint8) setup {
		return func(b *bed, n network) {
			f := b.flow(n, m, b.replication, 2)
			f.State = state
			b.put(flowOf(m, f))
		}
	}
	ping := echo{}
	for _, test := range []struct {
		name   string
		before setup
		m      message // comes in
		proves bool
	}{
		{"the end of a handshake", func(b *bed, n network) {
			f := b.answered(n, b.replication, 0)
			f.Tuple = n.tuple(control)
			b.put(halfOpen(f))
		}, tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 1, ports: control.ports}, true},
		{"a connection that goes on after a second", old(control, 0), control, true},
		{"datagrams that go on after a second", old(question, stateReplied), question, true},
		{"datagrams that nobody has answered", old(question, 0), question, false},
		{"datagrams of this second", func(b *bed, n network) { b.put(connectionlessFlow(b.flow(n, question, b.replication, 0))) }, question, false},
		{"echo requests", old(ping, stateReplied), ping, false},
		{"a SYN", nil, tcp{flags: "S", seq: peerISN, ports: control.ports}, false},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownRelated(n)
			test.before.on(b, n)
			b.exec(ingress(b.replication, n.in(b.replication, test.m)))
			b.wantWith(n, either[message](test.proves, test.m, nil))
			b.leavesBy(n, segment, either(test.proves, byGateway, asRouted(outcomeWeakHost, 1)))
		})
	}
}

// TestRelatedQuestion: datagrams with a port of the peer's question go as its answer does, if somebody takes it: those by its
// own port as long as it lasts, those to the peer's for ten seconds.
func TestRelatedQuestion(t *testing.T) {
	for _, test := range []struct {
		name         string
		m            message
		bySame, last bool
	}{
		{"by another port", udp{payload: 100, ports: ports{peer: question.ports.peer, self: selfPort}}, true, false},
		{"to another port", udp{payload: 100, ports: ports{peer: peerPort, self: question.ports.self}}, true, true},
		{"by other ports", udp{payload: 100}, false, false},
		{"no datagram", tcp{flags: "PA", ports: ports{peer: question.ports.peer, self: selfPort}}, false, false},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownRelated(n)
			b.exec(ingress(b.replication, n.in(b.replication, question)))
			b.wantRouted(n, test.m, outcomeWeakHost)
			b.put()
			defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(n.self, question.ports.self)))
			b.exec(ingress(b.replication, n.in(b.replication, question)))
			if !test.bySame {
				b.wantRouted(n, test.m, outcomeWeakHost)
				return
			}
			moved := func() {
				t.Helper()
				verdict, frame, _ := b.exec(egress(b.production, n.out(b.production, test.m)))
				await.Same(t, "verdict", redirect, verdict)
				b.wantFrame(frame, readdressed(n.out(b.production, test.m), b.replication.router, b.replication.MAC))
			}
			moved()
			b.put(connectionlessFlow(b.flow(n, question, b.replication, 9)))
			moved()
			b.put(connectionlessFlow(b.flow(n, question, b.replication, 11)))
			if test.last {
				moved()
			} else {
				b.wantRouted(n, test.m, outcomeWeakHost)
			}
		})
	}
}

// wantRouted wants a packet to be left as the kernel has routed it, for a reason.
func (b *bed) wantRouted(n network, m message, reason bpf.DatapathOutcome) {
	b.t.Helper()
	if verdict, _, _ := b.exec(egress(b.production, n.out(b.production, m))); verdict != pass {
		b.t.Errorf("verdict %d", verdict)
	}
	if record := b.record(n, m); record == nil || bpf.DatapathOutcome(record.Outcome) != reason {
		b.t.Errorf("what is kept: %+v, want outcome %d", record, reason)
	}
}

// TestRelatedTraced: the tracer is told that it goes as the answers go.
func TestRelatedTraced(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.relates(n, b.replication)
		tracer := b.traceAll()
		frame := n.out(b.production, segment)
		b.exec(egress(b.production, frame))
		moved := n.outgoing(segment, b.production, b.replication, frame)
		moved.Table = uint8(bpf.DatapathTableTABLE_RELATED)
		moved.Path = n.bySource(b.replication)
		tracer.want(moved)
	})
}
