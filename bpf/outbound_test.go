// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/bpf"
)

// TestTableOutboundLost: where the note about a tuple is pushed out, what comes in by it is no beginning all the same,
// but has the note made anew: the note had been answered, or is so young that the answer may still be on its way. So
// many others that proved to be no flow, or that are pushed out, do not change that.
func TestTableOutboundLost(t *testing.T) {
	for name, lost := range map[string]struct {
		age      uint32
		answered bool
	}{"answered": {20, true}, "young": {0, false}, "neither": {20, false}} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.fillMarks(bpf.DatapathMarkKindMARK_NO_FLOW, bpf.DatapathMarkKindMARK_FOREIGN, bpf.DatapathMarkKindMARK_EVICTED_FLOW)
			crowd, next := crowd(n, ways), newcomer(n)
			b.notedBefore(crowd, func(i int) uint32 { return either(i == 0, lost.age, 10) })
			for i, other := range crowd {
				if i > 0 || lost.answered {
					b.run(ingress(b.production, other.in(b.production, udp{})), unread(eventIgnoredAnswer))
				}
			}
			b.leaves(next, udp{}, b.pushesOut(next, crowd[0]))

			b.fillMarks(bpf.DatapathMarkKindMARK_NO_FLOW, bpf.DatapathMarkKindMARK_FOREIGN, bpf.DatapathMarkKindMARK_EVICTED_FLOW)
			if !lost.answered && lost.age != 0 {
				b.arrives(crowd[0], udp{}, b.starts(crowd[0], udp{}, b.replication))
				return
			}
			again := b.pushesOut(crowd[0], next)
			again.events[eventIgnoredAnswer] = 1
			b.arrives(crowd[0], udp{}, again)
		})
	}
}

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
		want := b.notes(l.n, tcp{})
		if l.outdated { // it is only renewed
			want.events = nil
		}
		return want
	})
}

// TestLateClosed: nothing is left of the connection, so that at most a RST answers.
func TestLateClosed(t *testing.T) {
	eachLate(t, 0, func(_ *testing.T, b *bed, l late) effect {
		if l.unread {
			return nothing
		}
		return b.meetsStranger(l.n, l.via)
	})
}

// TestLateTimeWait: what is left of the connection answers, and nothing is recorded of it.
func TestLateTimeWait(t *testing.T) {
	eachLate(t, 41000, func(t *testing.T, _ *bed, l late) effect {
		openedTimeWait(t, l.n, l.peer)
		if l.unread {
			return nothing
		}
		return unread(eventIgnoredSegment)
	})
}

// openedTimeWait has the host open a connection to a port and close it first. Its tuple is in TIME_WAIT from then on,
// also during the next tests.
func openedTimeWait(t *testing.T, n network, port uint16) {
	t.Helper()
	opener, accepted := connectPair(t, netip.AddrPortFrom(n.peer, port), n.here())
	closeSocket(t, opener)
	closeSocket(t, accepted)
}

var outboundFamily = map[string]story{
	// It is remembered with the one that was made since, which proves nothing by itself.
	"that the host spoke first is known of a note that was pushed out": func(t *testing.T, b *bed, n network) {
		m, crowd := udp{}, crowd(n, ways)
		b.notedBefore(crowd, oldestFirst)
		speaker := crowd[0]
		for _, other := range crowd {
			b.run(ingress(b.production, other.in(b.production, m)), unread(eventIgnoredAnswer))
		}
		b.exec(egress(b.production, newcomer(n).out(b.production, m))) // pushes out the oldest note
		b.exec(egress(b.production, speaker.out(b.production, m)))     // is noted anew
		if content, _ := b.snapshot(); content.Outbound[b.Seeds.Digest(speaker.tuple(m))] == 0 {
			t.Fatal("the host's datagram was not noted")
		}
		since := b.ago(0) + b.Seconds(60)
		b.manage(b.replication, func(i *bpf.DatapathInterface) { i.Since = since })
		answer := ingress(b.replication, speaker.in(b.replication, m))
		b.run(answer, unread(eventIgnoredAnswer))

		b.must(b.ForgetMarks()) // the note itself says it now
		b.run(answer, unread(eventIgnoredAnswer))
	},
}

func TestOutboundFamily(t *testing.T) { tell(t, eachFamily, outboundFamily) }

// TestOutboundHearsayAhead: all that comes in by an interface is seen from a moment on that is yet to come. What the
// host sends until then may be an answer.
func TestOutboundHearsayAhead(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		b.inOneTick(ingress(b.replication, n.in(b.replication, m)), func() effect {
			since := b.ago(0) + b.Seconds(2)
			b.manage(b.replication, func(i *bpf.DatapathInterface) { i.Since = since })
			b.put(b.sent(n, m, 0))
			return b.admits(n, m, b.replication)
		})
	})
}

// notedBefore has the host have spoken to a crowd, as long ago as age says.
func (b *bed) notedBefore(crowd []network, age func(i int) uint32) {
	b.t.Helper()
	var notes []func(tables)
	for i, other := range crowd {
		notes = append(notes, b.sent(other, udp{}, age(i)))
	}
	b.put(notes...)
}

// pushesOut is the effect of what has a note take the place of another, which is lost by that.
func (b *bed) pushesOut(next, gone network) effect {
	want := b.notes(next, udp{}).and(func(t tables) { delete(t.Outbound, b.Seeds.Digest(gone.tuple(udp{}))) })
	want.events[eventEvictedOutbound] = 1
	return want
}

// TestTableOutbound: notes of what the host sent come and go alike. One that nobody answered, as a scan leaves many,
// makes room before one that has been, however old that is. With one that says nothing any more nothing is lost.
func TestTableOutbound(t *testing.T) {
	for name, test := range map[string]struct {
		crowd    int
		age      func(i int) uint32
		answered func(i int) bool
		gone     int // -1: none
		isLost   bool
	}{
		"free way":   {ways - 1, oldestFirst, none, -1, false},
		"oldest":     {ways, oldestFirst, none, 0, true},
		"unanswered": {ways, oldestFirst, func(i int) bool { return i != 5 }, 5, true},
		"outdated":   {ways, func(i int) uint32 { return either(i == 0, idleOutbound+1, 1) }, none, 0, false},
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			crowd, next := crowd(n, test.crowd), newcomer(n)
			b.notedBefore(crowd, test.age)
			for i, other := range crowd {
				if test.answered(i) {
					b.run(ingress(b.production, other.in(b.production, udp{})), unread(eventIgnoredAnswer))
				}
			}
			want := b.notes(next, udp{})
			if test.gone >= 0 {
				want = b.pushesOut(next, crowd[test.gone])
			}
			if !test.isLost {
				delete(want.events, eventEvictedOutbound)
			}
			b.leaves(next, udp{}, want)
		})
	}
}

func oldestFirst(i int) uint32 { return uint32(20 - i) }

func none(int) bool { return false }
