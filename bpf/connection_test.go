// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/bpf"
)

// TestTupleReuse: a new handshake wins over the entry of an earlier connection.
func TestTupleReuse(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(*bed, network) bpf.DatapathFlow
	}{
		{"closing", func(b *bed, n network) bpf.DatapathFlow {
			f := b.flow(n, tcp{}, b.replication, 0)
			f.State = stateClosing | stateCorrected
			return f
		}},
		{"reset", func(b *bed, n network) bpf.DatapathFlow {
			f := b.flow(n, tcp{}, b.replication, 0)
			f.Flags |= flagReset
			return f
		}},
		{"closing and idle", func(b *bed, n network) bpf.DatapathFlow {
			f := b.flow(n, tcp{}, b.replication, uint32(bpf.DatapathIdleSecondsIDLE_CLOSING)+1)
			f.State = stateClosing
			return f
		}},
		{"idle", func(b *bed, n network) bpf.DatapathFlow {
			return b.flow(n, tcp{}, b.replication, uint32(bpf.DatapathIdleSecondsIDLE_ESTABLISHED)+1)
		}},
		{"by another way", func(b *bed, n network) bpf.DatapathFlow { return b.flow(n, tcp{}, b.backup, 0) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				flow := b.answered(n, b.replication, 0)
				b.put(establishedFlow(test.before(b, n)), halfOpen(flow))
				b.run(ingress(b.replication, n.in(b.replication, finalAck)), establishes(flow, finalAck))
			})
		})
	}
}

// TestTupleReuseWrongACK: what does not answer the new handshake leaves both alone.
func TestTupleReuseWrongACK(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		old := b.flow(n, tcp{}, b.backup, 0)
		b.put(establishedFlow(old), halfOpen(b.answered(n, b.replication, 0)))
		want := effect{events: events{
			bpf.DatapathEventEVENT_IGNORED_HANDSHAKE: 1,
			bpf.DatapathEventEVENT_REFUSED_CONTESTED: 1,
		}}
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A", ack: 1})), want)
	})
}

func TestEstablishedRefresh(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, flags := range []string{"A", "PA", "FA"} {
			b.refreshes(n, tcp{}, n.in(b.replication, tcp{flags: flags}))
		}
	})
}

// TestClosing: FIN and RST of ours end the flow soon, and not at once, however
// long the peer was quiet before.
func TestClosing(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, flags := range []string{"FA", "RA", "R", "FPA"} {
			flow := b.flow(n, tcp{}, b.replication, uint32(bpf.DatapathIdleSecondsIDLE_CLOSING)+9)
			b.put(establishedFlow(flow))
			end := egress(b.replication, n.out(b.replication, tcp{flags: flags}))
			flow.State, flow.Seen = stateClosing, justNow
			b.run(end, effect{tables: establishedFlow(flow)})
			flow.Seen = b.ago(2)
			b.put(establishedFlow(flow))
			b.run(end, nothing) // only the first of them counts
			flow.Seen = justNow
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), effect{tables: establishedFlow(flow)})
		}
	})
}

// TestEstablishedIdle: an idle entry counts as none, in both directions.
func TestEstablishedIdle(t *testing.T) {
	for _, test := range []struct {
		name  string
		limit bpf.DatapathIdleSeconds
		flags uint16
		state uint8
	}{
		{"established", bpf.DatapathIdleSecondsIDLE_ESTABLISHED, 0, 0},
		{"closing", bpf.DatapathIdleSecondsIDLE_CLOSING, 0, stateClosing},
		{"reset", bpf.DatapathIdleSecondsIDLE_CLOSING, flagReset, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				entry := func() bpf.DatapathFlow {
					flow := b.flow(n, tcp{}, b.replication, uint32(test.limit))
					flow.Flags |= test.flags
					flow.State |= test.state
					return flow
				}
				out := egress(b.production, n.out(b.production, tcp{flags: "A"}))
				b.inOneTick(out, func() effect {
					b.put(establishedFlow(entry()))
					return b.moves(n, tcp{}, b.production, b.replication, out.frame)
				})
				idle := entry()
				idle.Seen -= yearsAgo
				b.put(establishedFlow(idle))
				b.run(out, nothing)
				idle = entry()
				idle.Seen--
				b.put(establishedFlow(idle))
				b.run(out, nothing)
				b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})), b.meetsStranger(n, b.replication))
				b.run(ingress(b.backup, n.in(b.backup, tcp{flags: "A"})), b.meetsStranger(n, b.backup))
			})
		})
	}
}

// TestReset: a RST that the peer's host sent ends the flow, one that anybody can
// send does not.
func TestReset(t *testing.T) {
	state := connection{received: 1000, acked: 2000, window: 4096}
	for _, test := range []struct {
		name    string
		segment tcp
		genuine bool
	}{
		{"expected", tcp{flags: "RA", seq: 1000, ack: 2000}, true},
		{"expected, without an acknowledgement", tcp{flags: "R", seq: 1000}, true},
		{"any acknowledgement", tcp{flags: "RA", seq: 1000, ack: 7}, true}, // nobody looks at it: RFC 9293, 3.10.7.4
		{"wrong sequence number", tcp{flags: "RA", seq: 1000 + 1<<20, ack: 2000}, false},
		{"wrong sequence number, without an acknowledgement", tcp{flags: "R", seq: 1000 + 1<<20}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				socket := connectTCP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort), state)
				defer closeSocket(t, socket)
				flow := b.flow(n, tcp{}, b.replication, 300)
				b.put(establishedFlow(flow))
				if test.genuine {
					flow.Flags |= flagReset
					flow.Seen = justNow
				}
				b.run(ingress(b.replication, n.in(b.replication, test.segment)), effect{tables: establishedFlow(flow)})
			})
		})
	}
	t.Run("without a socket", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 5)))
			for _, flags := range []string{"R", "RA"} {
				b.run(ingress(b.replication, n.in(b.replication, tcp{flags: flags})), nothing)
			}
		})
	})
}

// TestStrangeFlags: combinations that no host sends pass like any other packet.
func TestStrangeFlags(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, flags := range []string{"SF", "SR", "SFRP", "SFRPA", "SRA", "SFA"} {
			b.t.Run(fmt.Sprintf("flags %s", flags), func(t *testing.T) {
				b := newBed(t, normal)
				verdict, _, _ := b.exec(ingress(b.replication, n.in(b.replication, tcp{flags: flags})))
				if verdict != pass {
					t.Errorf("verdict %d", verdict)
				}
				if after, _ := b.snapshot(); len(after.Established) != 0 {
					t.Error("established a flow")
				}
			})
		}
	})
}
