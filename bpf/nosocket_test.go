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
					moved.SndUna, moved.SndNxt = test.segment.ack, test.sent
					moved.RcvNxt = test.segment.end()
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

// TestNoSocketReset: a reset ends the flow only at the very byte that is expected,
// whichever way it comes.
func TestNoSocketReset(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, via := range []nic{b.replication, b.backup} {
			flow := b.remote(n, 0)
			b.put(establishedFlow(flow))
			want := nothing
			if via.Index == b.backup.Index {
				want = unread(contested)
			}
			for _, seq := range []uint32{4999, 5001} {
				b.run(ingress(via, n.in(via, tcp{flags: "R", seq: seq})), want)
			}
			flow.Flags |= flagReset
			flow.Seen = justNow
			b.run(ingress(via, n.in(via, tcp{flags: "R", seq: 5000})), effect{tables: establishedFlow(flow)})
		}
	})
}

// TestNoSocketKeepsNumbers: every segment of the flow is remembered, in both
// directions; of what was sent, the highest.
func TestNoSocketKeepsNumbers(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.remote(n, 0)
		flow.Flags |= flagActive
		b.put(establishedFlow(flow))
		for _, payload := range []int{0, 100} {
			flow.SndUna, flow.RcvNxt = 1500, 5000+uint32(payload)
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "PA", seq: 5000, ack: 1500, payload: payload})),
				effect{tables: establishedFlow(flow)})
		}
		send := func(seq uint32, payload int, highest uint32) {
			flow.SndNxt = highest
			b.run(egress(b.replication, n.out(b.replication, tcp{flags: "PA", seq: seq, payload: payload})),
				effect{tables: establishedFlow(flow)})
		}
		send(2000, 100, 2100)
		send(1900, 100, 2100)      // sent again
		send(1<<31+2090, 20, 2100) // nonsense: half the space away

		flow.SndNxt = 1<<32 - 10
		b.put(establishedFlow(flow))
		send(1<<32-10, 30, 20) // around the wrap
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
