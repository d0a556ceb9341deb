// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// remote is an established flow of a connection that has no socket here, as a
// container's: the peer's next byte is 5000, and of ours 1000 to 1999 are on
// their way.
func (b *bed) remote(n network, age uint32) bpf.DatapathFlow {
	b.t.Helper()
	f := b.flow(n, tcp{}, b.replication, age)
	f.Flags |= flagNoSocket
	f.SndUna, f.SndNxt, f.RcvNxt = 1000, 2000, 5000
	return f
}

// TestNoSocketFollows holds segments that come another way against what the
// entry saw, at every bound.
func TestNoSocketFollows(t *testing.T) {
	const slack = 65536
	for _, test := range []struct {
		name    string
		sent    uint32 // snd_nxt
		segment tcp
		good    bool
	}{
		{"expected", 2000, tcp{flags: "A", seq: 5000, ack: 1000}, true},
		{"with data", 2000, tcp{flags: "PA", seq: 5000, ack: 1500, payload: 10}, true},
		{"end of the connection", 2000, tcp{flags: "FA", seq: 5000, ack: 2000}, true},
		{"oldest acknowledgement", 2000, tcp{flags: "A", seq: 5000, ack: 1<<32 + 1000 - slack}, true},
		{"acknowledgement too old", 2000, tcp{flags: "A", seq: 5000, ack: 1<<32 + 999 - slack}, false},
		{"newest acknowledgement", 2000, tcp{flags: "A", seq: 5000, ack: 1000 + slack}, true},
		{"acknowledgement too new", 2000, tcp{flags: "A", seq: 5000, ack: 1001 + slack}, false},
		{"much was sent", 200_000, tcp{flags: "A", seq: 5000, ack: 200_000}, true},
		{"more than that", 200_000, tcp{flags: "A", seq: 5000, ack: 200_001}, false},
		{"oldest sequence number", 2000, tcp{flags: "A", seq: 1<<32 + 5000 - slack, ack: 1000}, true},
		{"sequence number too old", 2000, tcp{flags: "A", seq: 1<<32 + 4999 - slack, ack: 1000}, false},
		{"newest sequence number", 2000, tcp{flags: "A", seq: 5000 + slack, ack: 1000}, true},
		{"sequence number too new", 2000, tcp{flags: "A", seq: 5001 + slack, ack: 1000}, false},
		{"no acknowledgement", 2000, tcp{flags: "P", seq: 5000, ack: 1000}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				flow := b.remote(n, 20)
				flow.SndNxt = test.sent
				b.put(establishedFlow(flow))
				want := unread(contested)
				if test.good {
					moved := b.flow(n, tcp{}, b.backup, 0)
					moved.Created, moved.Seen = flow.Created, justNow
					moved.Flags |= flagNoSocket
					moved.SndUna, moved.SndNxt, moved.RcvNxt = flow.SndUna, test.sent, flow.RcvNxt
					if test.segment.ack >= flow.SndUna && test.segment.ack <= test.sent {
						moved.SndUna = test.segment.ack
					}
					want = effect{
						events: once(bpf.DatapathEventEVENT_MOVED + bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_TCP)),
						tables: establishedFlow(moved),
					}
				}
				b.run(ingress(b.backup, n.in(b.backup, test.segment)), want)
			})
		})
	}
}

// TestNoSocketReset: by another way a reset ends the flow only at the very byte that is
// expected; by its own, also after what our side has not acknowledged yet.
func TestNoSocketReset(t *testing.T) {
	const ahead = 256 << 10
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.remote(n, 0)
		ended := flow
		ended.Flags |= flagReset
		ended.Seen = justNow
		for _, reset := range []struct {
			via  nic
			seq  uint32
			ends bool
		}{
			{b.replication, 4999, false}, {b.replication, 5000, true}, {b.replication, 5001, true},
			{b.replication, 5000 + ahead, true}, {b.replication, 5001 + ahead, false},
			{b.backup, 4999, false}, {b.backup, 5000, true}, {b.backup, 5001, false},
		} {
			b.put(establishedFlow(flow))
			want := nothing
			if reset.ends {
				want = effect{tables: establishedFlow(ended)}
			} else if reset.via.Index == b.backup.Index {
				want = unread(contested)
			}
			b.run(ingress(reset.via, n.in(reset.via, tcp{flags: "R", seq: reset.seq})), want)
		}
	})
}

// TestNoSocketKeepsNumbers: the flow's numbers are what our side sent, the highest, and
// acknowledged; of the peer only what it acknowledges of that.
func TestNoSocketKeepsNumbers(t *testing.T) {
	const slack = 65536
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.remote(n, 0)
		flow.Flags |= flagActive
		b.put(establishedFlow(flow))
		receive := func(ack uint32, known uint32) {
			flow.SndUna = known
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "PA", seq: 5000, ack: ack, payload: 100})),
				effect{tables: establishedFlow(flow)})
		}
		receive(1500, 1500)
		receive(1400, 1500) // late, or forged
		receive(2000, 2000)
		receive(2001, 2000) // nothing of ours

		send := func(segment tcp, sent, acknowledged uint32) {
			flow.SndNxt, flow.RcvNxt = sent, acknowledged
			b.run(egress(b.replication, n.out(b.replication, segment)), effect{tables: establishedFlow(flow)})
		}
		send(tcp{flags: "PA", seq: 2000, ack: 5100, payload: 100}, 2100, 5100)
		send(tcp{flags: "PA", seq: 1900, ack: 5100, payload: 100}, 2100, 5100) // sent again
		send(tcp{flags: "P", seq: 2100, ack: 7, payload: 10}, 2110, 5100)      // acknowledges nothing
		send(tcp{flags: "PA", seq: 1<<32 + 2000 - slack, ack: 5200}, 2110, 5200)
		send(tcp{flags: "PA", seq: 2310, ack: 5200, payload: 100}, 2410, 5200) // another CPU's comes later
		send(tcp{flags: "PA", seq: 2410 + slack, ack: 5200}, 2410+slack, 5200)

		flow.SndUna = 2411 + 2*slack // what is not near is another connection
		send(tcp{flags: "PA", seq: flow.SndUna, ack: 9000, payload: 20}, flow.SndUna+20, 9000)
		flow.SndUna += 1<<32 - 1 - slack
		send(tcp{flags: "PA", seq: flow.SndUna, ack: 9000, payload: 20}, flow.SndUna+20, 9000)
		flow.SndUna = 1 << 30
		send(tcp{flags: "A", seq: 1 << 30, ack: 9000}, 1<<30, 9000)

		flow.SndUna, flow.SndNxt = 1<<32-20, 1<<32-10
		b.put(establishedFlow(flow))
		send(tcp{flags: "A", seq: 1<<32 - 10, ack: 9000, payload: 30}, 20, 9000) // around the wrap

		send(tcp{flags: "RA", seq: 21 + slack, ack: 0}, 20, 9000) // the host's, not the connection's
		flow.Seen, flow.State = justNow, stateClosing
		send(tcp{flags: "RA", seq: 20, ack: 0}, 20, 9000)
	})
}

// TestNoSocketAfterAll: a connection with a socket, accepted by SYN cookies, is
// recognized with the next refresh. Somebody may listen on a container's port.
func TestNoSocketAfterAll(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		c := accept(t, n)
		flow := b.remote(n, 2)
		b.put(establishedFlow(flow))
		segment := tcp{flags: "A", seq: c.received, ack: c.acked}
		known := b.flow(n, tcp{}, b.replication, 0)
		known.Created, known.Seen = flow.Created, justNow
		known.SndUna, known.SndNxt, known.RcvNxt = flow.SndUna, flow.SndNxt, flow.RcvNxt
		b.run(ingress(b.replication, n.in(b.replication, segment)), effect{tables: establishedFlow(known)})
	})
}
