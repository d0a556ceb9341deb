// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"
)

// opened is a connection that the host opened, as its socket has it.
var opened = connection{received: peerISN + 100, acked: ourISN + 200, window: 4096}

// lateSegment is one that the peer sends by such a connection, and that comes when nothing is known any more of who
// opened it.
type lateSegment struct {
	name string
	tcp
	unread  bool // ingress does not ask about it at all
	genuine bool // its socket, if there is one, expects it
}

var lateSegments = []lateSegment{
	{"SYN-ACK", tcp{flags: "SA", seq: peerISN, ack: ourISN + 1}, false, false},
	{"ACK", tcp{flags: "A", seq: opened.received, ack: opened.acked}, false, true},
	{"data", tcp{flags: "PA", seq: opened.received, ack: opened.acked, payload: 7}, false, true},
	{"FIN", tcp{flags: "FA", seq: opened.received, ack: opened.acked}, false, true},
	{"ACK of nothing", tcp{flags: "A", seq: opened.received, ack: opened.acked + 1}, false, false},
	{"FIN of another connection", tcp{flags: "FA", seq: opened.received + 1<<20, ack: opened.acked}, false, false},
	{"RST", tcp{flags: "R", seq: opened.received}, true, false},
	{"RST with an acknowledgement", tcp{flags: "RA", seq: opened.received, ack: opened.acked}, true, false},
}

// late is such a segment, in the state of things in which it comes.
type late struct {
	lateSegment
	n        network
	via      nic
	outdated bool // the note that the host began is there, but says nothing any more; else it was pushed out
}

// eachLate runs a test for every such segment, way of forgetting, family and NIC, and has the host connect anew by the
// same tuple each time. From the first of these ports on, each connection has its own; 0 stands for the usual one.
func eachLate(t *testing.T, first uint16, expect func(*testing.T, *bed, late) effect) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, segment := range lateSegments {
			for _, outdated := range []bool{false, true} {
				for _, via := range []nic{b.replication, b.production} {
					t.Run(fmt.Sprintf("%s, outdated %t, by %s", segment.name, outdated, via.Name), func(t *testing.T) {
						l := late{segment, newcomer(n), via, outdated}
						l.ports = ports{peer: first}
						l.run(newBed(t, normal), expect)
					})
					if first != 0 {
						first++
					}
				}
			}
		}
	})
}

func (l late) run(b *bed, expect func(*testing.T, *bed, late) effect) {
	b.t.Helper()
	want := expect(b.t, b, l)
	if l.outdated {
		b.put(b.sent(l.n, l.tcp, idleOutbound+1))
	}
	b.run(ingress(l.via, l.n.in(l.via, l.tcp)), want)
	b.redials(l.n, l.ports, l.via)
}

// redials has the host open the connection again, answered by this NIC: all of what it sends stays where the kernel
// sends it, and none of what comes in is recorded.
func (b *bed) redials(n network, p ports, via nic) {
	b.t.Helper()
	segment := func(flags string) tcp { return tcp{ports: p, flags: flags} }
	b.exec(egress(b.production, n.out(b.production, segment("S"))))
	known, _ := b.snapshot()
	if len(known.HalfOpen)+len(known.Established) != 0 {
		b.t.Errorf("flows after the host has opened the connection: %+v", known)
	}
	if _, noted := known.Outbound[b.Seeds.Digest(n.tuple(segment("")))]; !noted {
		b.t.Error("it is not known that the host has opened the connection")
	}
	b.run(ingress(via, n.in(via, segment("SA"))), nothing)
	for _, flags := range []string{"A", "PA", "FA", "R"} {
		b.leaves(n, segment(flags), nothing)
		b.inOneTick(ingress(via, n.in(via, segment(flags))), func() effect {
			b.put(b.sent(n, segment(""), 0))
			return nothing
		})
	}
}

// TestLateOpen: the connection is still open. What its socket expects says that the host opened it; anything else
// says nothing.
func TestLateOpen(t *testing.T) {
	eachLate(t, 0, func(t *testing.T, b *bed, l late) effect {
		socket := connectTCP(t, l.n.here(), l.n.there(), opened)
		t.Cleanup(func() { closeSocket(t, socket) })
		switch {
		case l.unread:
			return nothing
		case !l.genuine:
			return unread(eventIgnoredSegment)
		}
		return b.notes(l.n, tcp{})
	})
}
