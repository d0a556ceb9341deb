// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

const (
	ruleLearnt     = bpf.DatapathEventEVENT_LEARNT_RULE
	lastHopLearnt  = bpf.DatapathEventEVENT_LEARNT_LAST_HOP
	asRoutedLearnt = bpf.DatapathEventEVENT_LEARNT_AS_ROUTED

	attemptOfTwo = attemptSent | attemptChoice | attemptAgain
)

// otherRouter brings frames to eth1, and is no gateway.
var otherRouter = net.HardwareAddr{2, 0, 0, 0, 1, 0x22}

// second is eth1 with that router.
func (b *bed) second() nic {
	by := b.replication
	by.router = otherRouter
	return by
}

// handshake is a half-open flow through the second router whose SYN-ACK left so many seconds ago.
func (b *bed) handshake(n network, sent uint32, attempt uint8, way uint16) bpf.DatapathFlow {
	f := b.answered(n, b.replication, 0)
	f.Mac, f.Flags, f.Attempt, f.Sent = rig.MAC(otherRouter), f.Flags|way, attempt, uint16(b.ago(sent))
	return f
}

func sender(f bpf.DatapathFlow) bpf.DatapathSender {
	return bpf.DatapathSender{Mac: f.Mac, Interface: f.Interface, Self: f.Tuple.Self, Gateway: f.Gateway}
}

// teach enters what was learnt of a flow's sender so many seconds ago, with what change makes of it, and returns it.
func (b *bed) teach(f bpf.DatapathFlow, way uint16, ago uint32, change func(*bpf.DatapathLearnt)) bpf.DatapathLearnt {
	b.t.Helper()
	var downs uint16
	b.must(host.Do(func() (err error) { downs, err = b.replication.TimesDown(); return err }))
	l := bpf.DatapathLearnt{Since: b.ago(ago), Heard: b.ago(ago), Tried: b.ago(ago), Way: way, Downs: downs}
	if way == 0 {
		l.Settled = 1
	}
	if f.Gateway != 0 {
		l.Gateway = rig.MAC(b.replication.router)
	}
	if change != nil {
		change(&l)
	}
	b.must(b.Ways.Put(sender(f), l))
	return l
}

// known is what is known of a flow's sender.
func (b *bed) known(f bpf.DatapathFlow) bpf.DatapathLearnt {
	b.t.Helper()
	ways, err := b.LearntWays()
	b.must(err)
	return ways[sender(f)]
}

func proven(l *bpf.DatapathLearnt) { l.Proven = 1 }

func provenAndSettled(l *bpf.DatapathLearnt) { l.Proven, l.Settled = 1, 1 }

// What makes an entry hold no more.
var lapsed = map[string]func(*bed, *bpf.DatapathLearnt){
	"another gateway":  func(_ *bed, l *bpf.DatapathLearnt) { l.Gateway[5]++ },
	"no gateway":       func(_ *bed, l *bpf.DatapathLearnt) { l.Gateway = [6]uint8{} },
	"the link flapped": func(_ *bed, l *bpf.DatapathLearnt) { l.Downs-- },
	"silent for a day": func(b *bed, l *bpf.DatapathLearnt) { l.Heard = b.ago(86402) },
}

// TestNextWay: a SYN-ACK that is sent again takes the next of the ways that differ.
func TestNextWay(t *testing.T) {
	for _, test := range []struct {
		name    string
		present uint16
		own     bool // the kernel chose the flow's interface
		to      net.HardwareAddr
		change  func(b *bed, f *bpf.DatapathFlow)
		want    uint16
		same    bool
	}{
		{name: "the rule's, by another interface", want: flagLastHop},
		{name: "the sender's", present: flagLastHop, want: flagAsRouted},
		{name: "as routed", present: flagAsRouted, want: 0},
		{name: "the rule's is as routed", own: true, want: flagLastHop},
		{name: "of two ways, the sender's", own: true, present: flagLastHop, want: 0},
		{name: "the rule's is the sender's", change: func(_ *bed, f *bpf.DatapathFlow) { f.Mac = rig.MAC(routerOf(1)) }, want: flagAsRouted},
		{name: "all are one", own: true, change: func(_ *bed, f *bpf.DatapathFlow) { f.Mac = rig.MAC(routerOf(1)) }, same: true},
		{name: "the gateway is not known", change: func(_ *bed, f *bpf.DatapathFlow) { f.Gateway = 0 }, want: flagAsRouted},
		{name: "several gateways", own: true, to: routerOf(2), change: func(_ *bed, f *bpf.DatapathFlow) { f.Flags |= flagEnforceMAC }, want: flagLastHop},
		{name: "several gateways, of which the kernel chose another", own: true, present: flagLastHop, to: routerOf(2),
			change: func(_ *bed, f *bpf.DatapathFlow) { f.Flags |= flagEnforceMAC }, want: flagAsRouted},
		{name: "as routed is the sender's", own: true, to: otherRouter, present: flagLastHop,
			change: func(_ *bed, f *bpf.DatapathFlow) { f.Flags |= flagEnforceMAC }, want: 0},
		{name: "as routed was refused", present: flagLastHop, change: func(_ *bed, f *bpf.DatapathFlow) { f.Attempt |= attemptRefused }, want: 0},
		{name: "the same, soon", same: true, change: func(b *bed, f *bpf.DatapathFlow) {
			f.Attempt, f.Sent = f.Attempt|attemptRefused, uint16(b.ago(0)-b.Seconds(1)/2)
		}},
		{name: "no way out", present: flagLastHop, to: net.HardwareAddr{2, 0x72, 0x65, 0x70, 0x6c, 0x79}, want: 0},
		{name: "too soon", change: func(b *bed, f *bpf.DatapathFlow) { f.Sent = uint16(b.ago(0)) }, same: true},
		{name: "half a second ago", change: func(b *bed, f *bpf.DatapathFlow) { f.Sent = uint16(b.ago(0) - b.Seconds(1)/2) }, same: true},
		{name: "three quarters ago", change: func(b *bed, f *bpf.DatapathFlow) { f.Sent = uint16(b.ago(0) - b.Seconds(3)/4) }, want: flagLastHop},
		{name: "the first one", change: func(_ *bed, f *bpf.DatapathFlow) { f.Attempt = 0 }, same: true},
		{name: "gateways of the configuration", same: true, change: func(b *bed, _ *bpf.DatapathFlow) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) { r.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_TOLD) })
		}},
		{name: "observe", same: true, change: func(b *bed, _ *bpf.DatapathFlow) { b.switchMode(uint8(bpf.DatapathModeMODE_OBSERVE)) }},
		{name: "the rule's was seen to work", present: flagLastHop, want: 0, change: func(b *bed, f *bpf.DatapathFlow) { b.teach(*f, 0, 1, nil) }},
		{name: "another was", want: flagLastHop, change: func(b *bed, f *bpf.DatapathFlow) { b.teach(*f, flagAsRouted, 1, nil) }},
		{name: "the rule's was, before the link flapped", want: flagLastHop, change: func(b *bed, f *bpf.DatapathFlow) {
			b.teach(*f, 0, 1, func(l *bpf.DatapathLearnt) { l.Downs-- })
		}},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			f := b.handshake(n, 1, attemptSent, test.present)
			if test.change != nil {
				test.change(b, &f)
			}
			b.put(halfOpen(f))
			by := b.production
			if test.own {
				by = b.replication
			}
			if test.to != nil {
				by.router = test.to
			}
			b.exec(egress(by, n.out(by, synAck)))
			after, _ := b.snapshot()
			got := after.HalfOpen[f.Tuple]
			if test.same {
				test.want = test.present
			}
			if way, again := got.Flags&(flagLastHop|flagAsRouted), got.Attempt&attemptAgain != 0; way != test.want || again == test.same {
				t.Errorf("way %#x, another one %v; want %#x, %v", way, again, test.want, !test.same)
			}
			// A SYN-ACK after one that was refused does not begin the time anew in which RSTs answer that.
			if late, stays := uint16(b.ago(0))-got.Sent, test.same && f.Attempt&attemptRefused != 0; (late > 5) != stays {
				t.Errorf("sent %d ticks ago", late)
			}
		})
	}
}

// TestLearnWay: the ACK, or later what acknowledges data, teaches by which way replies through the sender go.
func TestLearnWay(t *testing.T) {
	tests := []struct {
		name     string
		attempt  uint8
		way      uint16
		known    func(b *bed, f bpf.DatapathFlow)
		withData bool
		want     bpf.DatapathEvent // 0: nothing
		settles  bool
		proves   bool
	}{
		{name: "the rule's, alone", attempt: attemptSent | attemptChoice, want: ruleLearnt, settles: true, proves: true},
		{name: "nothing to choose", attempt: attemptSent},
		{name: "not by its way", attempt: attemptSent | attemptChoice | attemptAstray},
		{name: "the rule's, after others", attempt: attemptOfTwo},
		{name: "the rule's brings data", attempt: attemptOfTwo, withData: true, want: ruleLearnt, settles: true, proves: true},
		{name: "the sender's", attempt: attemptOfTwo, way: flagLastHop, want: lastHopLearnt},
		{name: "as routed", attempt: attemptOfTwo, way: flagAsRouted, want: asRoutedLearnt},
		{name: "as routed, not the sender's", attempt: attemptOfTwo, way: flagAsRouted, want: asRoutedLearnt,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 1, nil) }},
		{name: "the rule's is known", attempt: attemptOfTwo, way: flagAsRouted, settles: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, 0, 1, nil) }},
		{name: "known, of before", attempt: attemptOfTwo, way: flagAsRouted, want: asRoutedLearnt,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, 0, 1, func(l *bpf.DatapathLearnt) { l.Downs-- }) }},
		{name: "as routed brings data", attempt: attemptOfTwo, way: flagAsRouted, withData: true, want: asRoutedLearnt, proves: true},
		{name: "the known one, alone", attempt: attemptSent | attemptChoice, way: flagLastHop, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 1, nil) }},
		{name: "the rule's, alone, where another was proven", attempt: attemptSent | attemptChoice, want: ruleLearnt, settles: true, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 61, proven) }},
		// A client may answer what it has not got, once it has our SYN-ACK.
		{name: "the rule's brings data, where another was proven", attempt: attemptOfTwo, withData: true, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 61, provenAndSettled) }},
		{name: "the rule's brings data, where another is known", attempt: attemptOfTwo, withData: true, want: ruleLearnt, settles: true, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 1, nil) }},
		{name: "as routed, where another was proven just now", attempt: attemptOfTwo, way: flagAsRouted, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 1, proven) }},
		{name: "as routed, where another was proven and settled", attempt: attemptOfTwo, way: flagAsRouted, settles: true, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 45, provenAndSettled) }},
		{name: "as routed, where another was proven", attempt: attemptOfTwo, way: flagAsRouted, want: asRoutedLearnt, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 61, proven) }},
		{name: "the same again", attempt: attemptOfTwo, way: flagLastHop,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 1, nil) }},
		{name: "a second opinion", attempt: attemptOfTwo, way: flagLastHop, settles: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 61, nil) }},
		{name: "of none", attempt: attemptSent | attemptChoice, way: flagLastHop, proves: true,
			known: func(b *bed, f bpf.DatapathFlow) { b.teach(f, flagLastHop, 61, nil) }},
		{name: "next_hop says", attempt: attemptOfTwo, way: flagAsRouted, known: func(b *bed, _ bpf.DatapathFlow) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) { r.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_LAST) })
		}},
	}
	for _, test := range tests {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			f, m := b.handshake(n, 0, test.attempt, test.way), finalAck
			if test.known != nil {
				test.known(b, f)
			}
			if test.withData {
				f.Flags |= flagOnTrial | flagNoSocket
				f.SndUna, f.SndNxt = ourISN+1, ourISN+101
				m.ack = ourISN + 101
				b.put(establishedFlow(f))
			} else {
				b.put(halfOpen(f))
			}
			before, counted := b.known(f), events{}
			_, counts := b.snapshot()
			b.exec(ingress(b.replication, n.in(b.second(), m)))
			_, after := b.snapshot()
			for event, count := range eventDelta(counts, after) {
				if event >= ruleLearnt {
					counted[event] = count
				}
			}
			got := b.known(f)
			if want := test.want; want != 0 && (counted[want] != 1 || got.Way != test.way) || want == 0 && (len(counted) > 0 || got.Way != before.Way) {
				t.Errorf("events %v, learnt %+v; want %s and way %#x", counted, got, eventSet[want], test.way)
			}
			if (got.Settled != 0) != test.settles {
				t.Errorf("settled %d", got.Settled)
			}
			if (got.Proven != 0) != test.proves || before != (bpf.DatapathLearnt{}) && got.Way == test.way && b.ago(0)-got.Heard > 10 && b.Seconds(30) < b.ago(0)-before.Heard {
				t.Errorf("%+v after %+v", got, before)
			}
		})
	}
}

// TestNeighbours: what is learnt of neighbours that come through a sender says nothing of others, whose gateway is another.
func TestNeighbours(t *testing.T) {
	test := func(t *testing.T, b *bed, n network, change func(*bpf.DatapathFlow)) {
		far, direct, bits := b.handshake(n, 1, attemptSent|attemptChoice, 0), b.replication, map[uint8]int{4: 24, 6: 64}[n.family]
		change(&far)
		known := b.teach(far, flagAsRouted, 61, provenAndSettled)
		near := n
		near.peer, direct.router = n.self.Next(), neighbour
		b.must(b.SetOnLinkBy(b.replication.Index, netip.PrefixFrom(near.peer, bits).Masked(), bpf.DatapathOnLinkFlagsON_LINK))
		b.exec(ingress(b.replication, near.in(b.second(), syn)))
		b.exec(egress(direct, near.out(direct, synAck)))
		b.exec(ingress(b.replication, near.in(b.second(), finalAck)))
		after, _ := b.snapshot()
		neighbours := after.Established[near.tuple(syn)]
		neighbours.Gateway = uint16(bpf.DatapathHopON_LINK_HOP)
		if got := b.known(neighbours); got.Settled != 1 || got.Way != 0 {
			t.Errorf("of neighbours is known %+v", got)
		}
		if got := b.known(far); got != known {
			t.Errorf("of others is known %+v", got)
		}
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) { test(t, b, n, func(*bpf.DatapathFlow) {}) })
	under(t, "no gateway is known", eachFamily, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Gateways4, r.Gateways6 = 0, 0 })
		test(t, b, n, func(f *bpf.DatapathFlow) { f.Gateway = 0 })
	})
}

// TestBeginByWay: a flow begins by the way that was learnt of its sender, as long as that holds.
func TestBeginByWay(t *testing.T) {
	begins := func(t *testing.T, m message, f func(b *bed, n network, f bpf.DatapathFlow) uint16) {
		t.Helper()
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			flow := b.handshake(n, 0, 0, 0)
			want := f(b, n, flow)
			b.exec(ingress(b.replication, n.in(b.second(), m)))
			after, _ := b.snapshot()
			got := after.HalfOpen[n.tuple(m)]
			if _, datagram := m.(udp); datagram {
				got = after.Connectionless[n.tuple(m)]
			}
			if got.Ifindex == 0 || got.Flags&(flagLastHop|flagAsRouted) != want {
				t.Errorf("flags %#x, want way %#x", got.Flags, want)
			}
		})
	}
	for _, way := range []uint16{0, flagLastHop, flagAsRouted} {
		for name, m := range map[string]message{"connection": syn, "datagrams": udp{}} {
			t.Run(name, func(t *testing.T) {
				begins(t, m, func(b *bed, _ network, f bpf.DatapathFlow) uint16 { b.teach(f, way, 1, proven); return way })
			})
		}
	}
	t.Run("not proven", func(t *testing.T) {
		begins(t, udp{}, func(b *bed, _ network, f bpf.DatapathFlow) uint16 { b.teach(f, flagAsRouted, 1, nil); return 0 })
		begins(t, syn, func(b *bed, _ network, f bpf.DatapathFlow) uint16 {
			b.teach(f, flagAsRouted, 1, nil)
			return flagAsRouted
		})
	})
	for name, change := range lapsed {
		t.Run(name, func(t *testing.T) {
			begins(t, syn, func(b *bed, _ network, f bpf.DatapathFlow) uint16 {
				b.teach(f, flagLastHop, 1, func(l *bpf.DatapathLearnt) { change(b, l) })
				return 0
			})
		})
	}
	t.Run("its gateway cannot be used now", func(t *testing.T) {
		begins(t, syn, func(b *bed, n network, f bpf.DatapathFlow) uint16 {
			b.teach(f, flagAsRouted, 1, nil)
			b.must(b.SetGateway(uint32(f.Gateway), bpf.DatapathGateway{Address: n.stranger.As16(), Ifindex: b.replication.Index}))
			return flagAsRouted
		})
	})
	t.Run("a second opinion", func(t *testing.T) {
		begins(t, syn, func(b *bed, n network, f bpf.DatapathFlow) uint16 {
			b.teach(f, flagLastHop, 61, proven)
			b.exec(ingress(b.replication, n.in(b.second(), udp{})))
			after, _ := b.snapshot()
			if after.Connectionless[n.tuple(udp{})].Flags&flagLastHop == 0 {
				t.Error("datagrams begin by the rule's way")
			}
			if l := b.known(f); b.ago(0)-l.Heard > 10 {
				t.Errorf("heard is not renewed: %+v", l)
			}
			return flagLastHop // until the SYN-ACK leaves
		})
	})
	for _, test := range []struct {
		name   string
		ago    uint32
		change func(*bpf.DatapathLearnt)
		want   uint16
	}{
		{"settled", 29, provenAndSettled, flagLastHop | flagSettled}, {"settled, to be heard again", 30, provenAndSettled, flagLastHop},
		{"settled, not proven", 1, func(l *bpf.DatapathLearnt) { l.Settled = 1 }, flagLastHop}, {"not settled", 1, proven, flagLastHop},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.teach(b.handshake(n, 0, 0, 0), flagLastHop, test.ago, test.change)
			b.exec(ingress(b.replication, n.in(b.second(), syn)))
			after, _ := b.snapshot()
			if got := after.HalfOpen[n.tuple(syn)].Flags & (flagLastHop | flagAsRouted | flagSettled); got != test.want {
				t.Errorf("flags %#x, want %#x", got, test.want)
			}
		})
	}
	for name, hop := range map[string]bpf.DatapathNextHopMode{
		"gateways of the configuration": bpf.DatapathNextHopModeNEXT_HOP_TOLD, "last-hop": bpf.DatapathNextHopModeNEXT_HOP_LAST,
	} {
		t.Run(name, func(t *testing.T) {
			begins(t, syn, func(b *bed, _ network, f bpf.DatapathFlow) uint16 {
				b.teach(f, flagAsRouted, 1, nil)
				b.manage(b.replication, func(r *bpf.DatapathInterface) { r.NextHop = uint8(hop) })
				return 0
			})
		})
	}
}

// TestFirstSYNACK: a handshake begins by the way that was learnt, and at times by the rule's. Where nothing is known of its sender,
// it takes the next way if the last one's SYN-ACK was not answered.
func TestFirstSYNACK(t *testing.T) {
	learnt := func(ago uint32, tries uint8, change func(*bpf.DatapathLearnt)) func(*bed, *bpf.DatapathFlow) {
		return func(b *bed, f *bpf.DatapathFlow) {
			f.Flags |= flagLastHop
			b.teach(*f, flagLastHop, 100, func(l *bpf.DatapathLearnt) {
				l.Tried, l.Tries = b.ago(ago), tries
				if change != nil {
					change(l)
				}
			})
		}
	}
	begun := func(ago uint32, way uint16) func(*bed, *bpf.DatapathFlow) {
		return func(b *bed, f *bpf.DatapathFlow) {
			b.must(b.BegunBy.Put(sender(*f), bpf.DatapathBegun{Sent: b.ago(ago), Way: way}))
		}
	}
	for _, test := range []struct {
		name  string
		known func(*bed, *bpf.DatapathFlow)
		want  uint16
		tries uint8
		sent  bool // it is the one whose answer is waited for
	}{
		{name: "nothing is known", sent: true},
		{name: "the last one was not answered", known: begun(1, 0), want: flagLastHop, sent: true},
		{name: "nor was that", known: begun(1, flagLastHop), want: flagAsRouted, sent: true},
		{name: "it left just now", known: begun(0, flagAsRouted), want: flagAsRouted, sent: true},
		{name: "it left long ago", known: begun(60, flagLastHop), sent: true},
		{name: "what the SYN knew is forgotten", want: flagAsRouted, sent: true, known: func(b *bed, f *bpf.DatapathFlow) {
			begun(1, flagLastHop)(b, f)
			f.Flags |= flagLastHop
		}},
		{name: "observe", known: func(b *bed, _ *bpf.DatapathFlow) { b.switchMode(uint8(bpf.DatapathModeMODE_OBSERVE)) }},
		{name: "gateways of the configuration", known: func(b *bed, _ *bpf.DatapathFlow) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) { r.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_TOLD) })
		}},
		{name: "a second opinion", known: learnt(100, 0, nil), tries: 1},
		{name: "a minute has not passed", want: flagLastHop, known: func(b *bed, f *bpf.DatapathFlow) {
			f.Flags |= flagLastHop
			b.teach(*f, flagLastHop, 59, nil)
		}},
		{name: "asked for just now", known: learnt(9, 0, nil), want: flagLastHop},
		{name: "asked for once before, soon", known: learnt(19, 1, nil), want: flagLastHop, tries: 1},
		{name: "asked for once before", known: learnt(20, 1, nil), tries: 2},
		{name: "asked for often", known: learnt(640, 6, nil), tries: 6},
		{name: "settled", known: learnt(100, 0, provenAndSettled), want: flagLastHop},
		{name: "known to be", known: func(b *bed, f *bpf.DatapathFlow) { learnt(100, 0, nil)(b, f); f.Flags |= flagSettled }, want: flagLastHop},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			f := b.handshake(n, 0, 0, 0)
			if test.known != nil {
				test.known(b, &f)
			}
			before := b.known(f)
			b.put(halfOpen(f))
			b.exec(egress(b.production, n.out(b.production, synAck)))
			after, _ := b.snapshot()
			if got := after.HalfOpen[f.Tuple]; got.Flags&(flagLastHop|flagAsRouted) != test.want || got.Attempt&^attemptAstray != attemptSent|attemptChoice {
				t.Errorf("flags %#x, attempt %#x; want way %#x", got.Flags, got.Attempt, test.want)
			}
			l := b.known(f)
			if isTried := l.Tried != before.Tried; l.Tries != test.tries || isTried != (test.want == 0 && before != bpf.DatapathLearnt{}) {
				t.Errorf("learnt %+v after %+v", l, before)
			}
			ways, err := b.BegunWays()
			b.must(err)
			got, known := ways[sender(f)]
			if known != test.sent || got.Way != test.want && known || known && b.ago(0)-got.Sent > 10 {
				t.Errorf("begun %+v, %v", got, known)
			}
			b.exec(ingress(b.replication, n.in(b.second(), finalAck)))
			if ways, err = b.BegunWays(); err != nil || len(ways) > 0 && test.sent {
				t.Errorf("once answered: %+v, %v", ways, err)
			}
		})
	}
}

// TestScan: a RST that answers a SYN-ACK by the rule's way shows that it arrived, as far as a RST shows anything.
func TestScan(t *testing.T) {
	reset := tcp{flags: "R", seq: syn.end() + 1}
	for _, test := range []struct {
		name    string
		m       tcp
		other   bool // router
		attempt uint8
		way     uint16
		begins  bool
	}{
		{"its answer", reset, false, attemptSent | attemptChoice, 0, true},
		{"after several ways", reset, false, attemptOfTwo, 0, false}, // who gave up meanwhile has got the last one
		{"by another way", reset, false, attemptSent | attemptChoice, flagLastHop, false},
		{"another router's", reset, true, attemptSent | attemptChoice, 0, false},
		{"another number", tcp{flags: "R", seq: syn.end()}, false, attemptSent | attemptChoice, 0, false},
		{"no choice", reset, false, attemptSent, 0, false},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			f, by := b.handshake(n, 1, test.attempt, test.way), b.second()
			f.RcvNxt = syn.end() + 1
			b.put(halfOpen(f))
			b.must(b.BegunBy.Put(sender(f), bpf.DatapathBegun{Sent: b.ago(1)}))
			if test.other {
				by = b.replication
			}
			b.exec(ingress(b.replication, n.in(by, test.m)))
			ways, err := b.BegunWays()
			b.must(err)
			if _, known := ways[sender(f)]; known == test.begins {
				t.Errorf("%+v", ways)
			}
		})
	}
}

// TestProvoked: a firewall's RST that answers what was sent as routed to find out a way is dropped, and that way is not tried
// again. The RSTs of a peer pass.
func TestProvoked(t *testing.T) {
	for _, test := range []struct {
		name    string
		flags   string
		beside  uint32 // of the number that we acknowledged last
		way     uint16
		other   bool // it comes through the router that does not send us the flow
		noTrial bool
		observe bool
		watched bool                      // it comes by an interface that is only observed
		refused bool                      // already
		sent    uint32                    // seconds ago
		learnt  func(*bpf.DatapathLearnt) // as routed; nil: nothing was
		drops   bool
	}{
		{name: "nothing is known", flags: "R", way: flagAsRouted, drops: true},
		{name: "by another path", flags: "R", way: flagAsRouted, other: true, drops: true},
		{name: "the way is not proven", flags: "R", way: flagAsRouted, learnt: func(*bpf.DatapathLearnt) {}, drops: true},
		{name: "it is", flags: "R", way: flagAsRouted, learnt: proven},
		{name: "another one is", flags: "R", way: flagAsRouted, learnt: func(l *bpf.DatapathLearnt) { l.Way, l.Proven = flagLastHop, 1 }, drops: true},
		{name: "the peer closes", flags: "RA", way: flagAsRouted},
		{name: "another number", flags: "R", way: flagAsRouted, beside: 1},
		{name: "by the rule's way", flags: "R"},
		{name: "to the sender's MAC", flags: "R", way: flagLastHop},
		{name: "the next one", flags: "R", refused: true, drops: true},
		{name: "the next one, by another way", flags: "R", refused: true, way: flagLastHop},
		{name: "later", flags: "R", refused: true, sent: 1},
		{name: "what left as routed did so long ago", flags: "R", way: flagAsRouted, sent: 1},
		{name: "longer ago than 15 bits tell", flags: "R", way: flagAsRouted, sent: 600},
		{name: "where it arrives is only observed", flags: "R", way: flagAsRouted, watched: true},
		{name: "no trial", flags: "R", way: flagAsRouted, noTrial: true},
		{name: "observe", flags: "R", way: flagAsRouted, observe: true},
	} {
		for _, open := range []bool{false, true} {
			if test.noTrial && !open {
				continue
			}
			under(t, fmt.Sprintf("%s, established %t", test.name, open), eachFamily, func(t *testing.T, b *bed, n network) {
				b.must(b.ForgetWays())
				f, by := b.handshake(n, test.sent, attemptSent|attemptChoice, test.way), b.second()
				f.RcvNxt = syn.end() + 1
				if test.refused {
					f.Attempt |= attemptRefused | attemptAgain
				}
				put := halfOpen
				if open {
					f.State, f.SndUna, f.SndNxt, f.RcvNxt, put = 0, ourISN+1, ourISN+101, peerISN+1, establishedFlow
					f.Flags |= flagNoSocket
					if !test.noTrial {
						f.Flags |= flagOnTrial
					}
				}
				b.put(put(f))
				if test.observe {
					b.switchMode(uint8(bpf.DatapathModeMODE_OBSERVE))
					defer b.switchMode(uint8(bpf.DatapathModeMODE_CONFIGURED))
				}
				if test.learnt != nil {
					b.teach(f, flagAsRouted, 10, test.learnt)
				}
				if test.other {
					by = b.replication
				}
				via := b.replication
				if test.watched {
					via, by = b.backup, b.backup
					b.manage(via, func(r *bpf.DatapathInterface) { r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE) })
				}
				o := b.perform(ingress(via, n.in(by, tcp{flags: test.flags, seq: f.RcvNxt + test.beside})))
				got := o.after.HalfOpen[f.Tuple]
				if open {
					got = o.after.Established[f.Tuple]
				}
				verdict, way, attempt := int32(pass), test.way, f.Attempt
				if test.drops {
					verdict, way, attempt = shot, 0, f.Attempt|attemptRefused|attemptAgain
				}
				if open && test.drops { // what acknowledges data that left as routed tells nothing of the rule's way
					attempt &^= attemptSent
					await.Same(t, "what is acknowledged", f.SndNxt, got.SndUna)
				}
				if o.verdict != verdict || got.Flags&(flagLastHop|flagAsRouted) != way || got.Attempt != attempt {
					t.Errorf("verdict %d, %+v", o.verdict, got)
				}
				if told := o.counts.Events[contested] - o.counted.Events[contested]; test.drops && told != 1 {
					t.Errorf("counted %d times", told)
				}
			})
		}
	}
}

// TestGoOnByWay: what goes on keeps its way, if it is a connection and no setting speaks. By a way that is not proven nothing
// else goes, and what goes asks for no second opinion.
func TestGoOnByWay(t *testing.T) {
	goesOn := tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 1}
	for _, test := range []struct {
		name  string
		m     message
		moves bool // to the second router
		way   uint16
		known func(*bpf.DatapathLearnt)
		hop   bpf.DatapathNextHopMode
		want  uint16
	}{
		{name: "a connection", m: goesOn, way: flagAsRouted, want: flagAsRouted, known: proven},
		{name: "datagrams", m: udp{}, want: flagLastHop, known: proven},
		{name: "datagrams, not proven", m: udp{}},
		{name: "datagrams, by a way that is not known any more", m: udp{}, way: flagAsRouted},
		{name: "a connection moves", m: goesOn, moves: true, way: flagAsRouted, want: flagLastHop, known: proven},
		{name: "a connection moves, not proven", m: goesOn, moves: true, way: flagAsRouted},
		{name: "last-hop", m: goesOn, way: flagAsRouted, hop: bpf.DatapathNextHopModeNEXT_HOP_LAST, known: proven},
		{name: "gateways of the configuration", m: goesOn, way: flagLastHop, hop: bpf.DatapathNextHopModeNEXT_HOP_TOLD, known: proven},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Follow = uint8(bpf.DatapathFollowFOLLOW_LATEST) })
			f := b.flow(n, test.m, b.replication, 2)
			f.Flags |= test.way
			if !test.moves {
				f.Mac = rig.MAC(otherRouter)
			}
			b.put(flowOf(test.m, f))
			f.Mac = rig.MAC(otherRouter)
			known := b.teach(f, flagLastHop, 61, test.known)
			b.manage(b.replication, func(r *bpf.DatapathInterface) { r.NextHop = uint8(test.hop) })
			b.exec(ingress(b.replication, n.in(b.second(), test.m)))
			after, _ := b.snapshot()
			got := after.Established[f.Tuple]
			if f.Tuple.Protocol == unix.IPPROTO_UDP {
				got = after.Connectionless[f.Tuple]
			}
			if got.Mac != f.Mac || got.Flags&(flagLastHop|flagAsRouted) != test.want || b.known(f).Tried != known.Tried {
				t.Errorf("%+v of %+v; want way %#x", got, b.known(f), test.want)
			}
		})
	}
}

// TestHandshakeAgain: a SYN that comes again keeps its way; another handshake, or one through another sender, begins anew.
func TestHandshakeAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		m     tcp
		other bool // router
		below bool // on its way up, by the device below
		keeps bool
	}{
		{name: "again", m: syn, keeps: true}, {name: "again, without data", m: tcp{flags: "S", seq: peerISN - 100}, keeps: true},
		{name: "another", m: tcp{flags: "S", seq: 1 << 20}}, {name: "another sender", m: syn, other: true},
		{name: "on its way up", m: syn, below: true, keeps: true},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			f := b.handshake(n, 1, attemptOfTwo, flagLastHop)
			f.RcvNxt = syn.end() + 1
			b.put(halfOpen(f))
			by := b.second()
			if test.other {
				by = b.replication
			}
			if test.below {
				b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.production.Index })
				b.exec(ingress(b.production, n.in(b.production, test.m)))
			}
			b.exec(ingress(b.replication, n.in(by, test.m)))
			after, _ := b.snapshot()
			got := after.HalfOpen[f.Tuple]
			if keeps := got.Attempt == attemptOfTwo && got.Flags&flagLastHop != 0; keeps != test.keeps || !keeps && (got.Attempt != attemptAgain || got.Flags&flagLastHop != 0) {
				t.Errorf("attempt %d, flags %#x", got.Attempt, got.Flags)
			}
		})
	}
}

// TestOurNumber: a client that has got our number by one way may not have another one pass for who completes a handshake alone.
func TestOurNumber(t *testing.T) {
	for _, test := range []struct {
		name  string
		again tcp // SYN
		other bool
	}{
		{"as if it began anew", tcp{flags: "S", seq: 1 << 28}, false},
		{"by another router", syn, true},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			f := b.handshake(n, 0, attemptSent|attemptChoice, flagAsRouted)
			f.RcvNxt = syn.end() + 1
			if test.other {
				f.Mac = rig.MAC(neighbour)
			}
			b.put(halfOpen(f))
			f.Mac = rig.MAC(otherRouter)
			b.teach(f, flagAsRouted, 61, proven)
			b.exec(ingress(b.replication, n.in(b.second(), test.again))) // begins by the rule's way
			b.exec(egress(b.production, n.out(b.production, synAck)))
			b.exec(ingress(b.replication, n.in(b.second(), finalAck)))
			after, _ := b.snapshot()
			if got := b.known(f); got.Way != flagAsRouted || got.Proven != 1 || after.Established[f.Tuple].Flags&flagOnTrial == 0 {
				t.Errorf("learnt %+v of %+v", got, after.Established[f.Tuple])
			}
		})
	}
}

// TestTrial: a connection whose SYN-ACKs left by two ways is on trial until something sent since is acknowledged, or the peer
// goes on long after we acknowledged what it sent. What is sent again meanwhile takes the next way, as does the ACK of what
// the peer sends again.
func TestTrial(t *testing.T) {
	data := tcp{flags: "A", seq: ourISN + 1, ack: peerISN + 1, payload: 100}
	ofPeer := tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 1, payload: 50}
	ack := func(number uint32) tcp { return tcp{flags: "A", seq: ourISN + 1, ack: number} }
	acked := func(number uint32) tcp { return tcp{flags: "A", seq: peerISN + 1, ack: number} }
	const heard, unheard = attemptOfTwo, attemptOfTwo&^attemptSent | attemptUnheard
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		trial := func(sent, next, received uint32, attempt uint8) bpf.DatapathFlow {
			f := b.handshake(n, sent, attempt, 0)
			f.State, f.SndUna, f.SndNxt, f.RcvNxt = 0, ourISN+1, next, received
			f.Flags |= flagOnTrial
			return f
		}
		after := func(f bpf.DatapathFlow, r run) bpf.DatapathFlow {
			t.Helper()
			b.put(establishedFlow(f))
			b.exec(r)
			tables, _ := b.snapshot()
			return tables.Established[f.Tuple]
		}
		in := func(m tcp) run { return ingress(b.replication, n.in(b.second(), m)) }

		for _, test := range []struct {
			name    string
			by      nic
			follow  bpf.DatapathFollow
			way     uint16
			attempt uint8
		}{
			{"begins", b.second(), bpf.DatapathFollowFOLLOW_VALIDATED, flagLastHop, attemptOfTwo &^ attemptSent},
			{"by the way of another, where the ACK comes through that", b.replication, bpf.DatapathFollowFOLLOW_VALIDATED, 0, attemptFirst},
			{"where the ACK comes through another, pinned", b.replication, bpf.DatapathFollowFOLLOW_PINNED, flagLastHop, attemptFirst},
		} {
			t.Run(test.name, func(t *testing.T) {
				f := b.handshake(n, 0, attemptOfTwo, flagLastHop)
				f.SndNxt = ourISN + 51 // Fast Open: this left before
				b.follow(test.follow)
				defer b.follow(bpf.DatapathFollowFOLLOW_VALIDATED)
				b.put(halfOpen(f))
				b.exec(ingress(b.replication, n.in(test.by, finalAck)))
				tables, _ := b.snapshot()
				got := tables.Established[f.Tuple]
				if got.Flags&(flagOnTrial|flagLastHop) != test.way|flagOnTrial || got.Attempt != test.attempt || got.SndUna != ourISN+51 {
					t.Errorf("%+v", got)
				}
			})
		}
		for _, test := range []struct {
			name           string
			sent           uint32 // seconds ago
			next, received uint32
			attempt        uint8
			m              tcp
			way            uint16
			isNew          bool // from now on the answer is waited for
			then           uint8
		}{
			{"new data", 1, ourISN + 1, peerISN + 1, heard, data, 0, true, heard},
			{"new data, though the peer sends again", 1, ourISN + 1, peerISN + 1, unheard, data, 0, true, unheard},
			{"data again", 1, ourISN + 101, peerISN + 1, heard, data, flagLastHop, true, attemptChoice | attemptAgain},
			{"soon", 0, ourISN + 101, peerISN + 1, heard, data, 0, false, heard},
			{"a RST, beyond that", 1, ourISN + 101, peerISN + 1, heard, tcp{flags: "R", seq: ourISN + 201}, 0, false, heard},
			{"another CPU is ahead", 1<<32 - 1, ourISN + 101, peerISN + 1, heard, data, 0, false, heard},
			{"an ACK", 1, ourISN + 1, peerISN + 1, attemptChoice, ack(peerISN + 1), 0, false, attemptChoice},
			{"the first ACK of data", 1, ourISN + 1, peerISN + 1, attemptChoice, ack(peerISN + 51), 0, true, attemptChoice | attemptSent},
			{"another one", 1, ourISN + 1, peerISN + 1, heard, ack(peerISN + 51), 0, false, heard},
			{"the ACK of data that came again", 1, ourISN + 1, peerISN + 51, unheard, ack(peerISN + 51), flagLastHop, true, attemptChoice | attemptAgain},
			{"the same, soon", 0, ourISN + 1, peerISN + 51, unheard, ack(peerISN + 51), 0, false, unheard},
			{"a RST", 1, ourISN + 101, peerISN + 1, heard, tcp{flags: "R", seq: ourISN + 1}, 0, false, heard},
			{"data again, of many in flight", 1, ourISN + 200_000, peerISN + 1, heard, tcp{flags: "A", seq: ourISN + 1 - 70_000, ack: peerISN + 1, payload: 100}, flagLastHop, true, attemptChoice | attemptAgain},
			{"data again, refused as routed", 1, ourISN + 101, peerISN + 1, heard | attemptRefused, data, flagLastHop, true, attemptChoice | attemptAgain | attemptRefused},
			{"data again, the first by this path", 1, ourISN + 101, peerISN + 1, attemptFirst, data, 0, true, 0},
			{"an ACK before any data", 1, ourISN + 101, peerISN + 1, attemptFirst, ack(peerISN + 51), 0, true, attemptFirst | attemptSent},
			{"a FIN again", 1, ourISN + 2, peerISN + 1, heard, tcp{flags: "FA", seq: ourISN + 1, ack: peerISN + 1}, flagLastHop, true, attemptChoice | attemptAgain},
		} {
			t.Run(test.name, func(t *testing.T) {
				before := trial(test.sent, test.next, test.received, test.attempt)
				got := after(before, egress(b.production, n.out(b.production, test.m)))
				next, received := max(before.SndNxt, test.m.end()), max(before.RcvNxt, test.m.ack)
				if test.m.flags == "R" {
					next = before.SndNxt
				}
				una := map[uint16]uint32{0: ourISN + 1, flagLastHop: next}[test.way]
				if got.Flags&(flagLastHop|flagAsRouted|flagOnTrial) != test.way|flagOnTrial || got.Attempt != test.then || got.SndUna != una || got.SndNxt != next || got.RcvNxt != received {
					t.Errorf("%+v, want way %#x, attempt %d, %d to %d", got, test.way, test.then, una, next)
				}
				if isNew := uint16(b.ago(0))-got.Sent < 5; isNew != (test.isNew || test.sent == 0) {
					t.Errorf("sent %d ticks ago", uint16(b.ago(0))-got.Sent)
				}
			})
		}
		for _, test := range []struct {
			name           string
			sent           uint32
			next, received uint32
			attempt        uint8
			m              tcp
			ends           bool
			then           uint8
		}{
			{"data are acknowledged", 0, ourISN + 101, peerISN + 1, heard, acked(ourISN + 51), true, heard},
			{"nothing is", 11, ourISN + 101, peerISN + 1, heard, acked(ourISN + 1), false, heard},
			{"more than was sent", 11, ourISN + 101, peerISN + 1, heard, acked(ourISN + 102), false, heard},
			{"the peer goes on, soon", 8, ourISN + 1, peerISN + 1, heard, ofPeer, false, heard},
			{"the peer goes on, later", 10, ourISN + 1, peerISN + 1, heard, ofPeer, true, heard},
			{"nothing was acknowledged", 11, ourISN + 1, peerISN + 1, attemptChoice | attemptAgain, ofPeer, false, attemptChoice | attemptAgain},
			{"the peer sends again", 11, ourISN + 1, peerISN + 51, heard, ofPeer, false, unheard},
			{"the peer sends again, soon", 0, ourISN + 1, peerISN + 51, heard, ofPeer, false, heard},
			{"who does not know our number", 11, ourISN + 1, peerISN + 51, heard, tcp{flags: "A", seq: 1<<32 - 1<<30, ack: ourISN + 7, payload: 50}, false, heard},
			{"and acknowledges", 11, ourISN + 101, peerISN + 51, heard, tcp{flags: "A", seq: peerISN + 1, ack: ourISN + 101, payload: 50}, true, heard},
			{"the peer asks whether we are there", 11, ourISN + 1, peerISN + 51, heard, tcp{flags: "A", seq: peerISN + 50, ack: ourISN + 1}, false, unheard},
			{"the same, with a byte", 11, ourISN + 1, peerISN + 51, heard, tcp{flags: "A", seq: peerISN + 50, ack: ourISN + 1, payload: 1}, false, unheard},
			{"it acknowledges alone", 11, ourISN + 1, peerISN + 51, heard, tcp{flags: "A", seq: peerISN + 51, ack: ourISN + 1}, false, heard},
			{"no acknowledgement", 11, ourISN + 1, peerISN + 1, heard, tcp{flags: "P", seq: peerISN + 1, ack: ourISN + 1, payload: 50}, false, heard},
		} {
			t.Run(test.name, func(t *testing.T) {
				got := after(trial(test.sent, test.next, test.received, test.attempt), in(test.m))
				if (got.Flags&flagOnTrial == 0) != test.ends || got.Attempt != test.then {
					t.Errorf("flags %#x, attempt %d", got.Flags, got.Attempt)
				}
			})
		}
		t.Run("numbers begin anew", func(t *testing.T) {
			b.must(b.ForgetWays())
			f := trial(1, 1<<32-50, peerISN+1, heard)
			f.SndUna = f.SndNxt
			m := data
			m.seq = f.SndNxt
			if got := after(f, egress(b.production, n.out(b.production, m))); got.SndNxt != 50 || got.Flags&flagLastHop != 0 {
				t.Errorf("%+v", got)
			}
		})
		t.Run("the peer moves", func(t *testing.T) {
			f := trial(1, ourISN+101, peerISN+1, heard)
			f.Flags |= flagNoSocket
			if got := after(f, ingress(b.backup, n.in(b.backup, acked(ourISN+1)))); got.Flags&flagOnTrial == 0 || got.Attempt != attemptFirst || got.Ifindex == f.Ifindex {
				t.Errorf("%+v", got)
			}
		})
	})
}

// TestReplyByWay: where replies leave.
func TestReplyByWay(t *testing.T) {
	for _, m := range repliers {
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) {
			put := func(way uint16) {
				f := b.flow(n, m.message, b.replication, 0)
				f.Mac, f.Flags = rig.MAC(otherRouter), f.Flags|way
				b.put(flowOf(m.message, f))
			}
			reply := func(by nic) run { return egress(by, n.out(by, m.message)) }
			put(flagLastHop)
			want := b.moves(n, m.message, b.production, b.replication, reply(b.production).frame)
			want.frame = readdressed(want.frame, otherRouter, b.replication.MAC)
			b.run(reply(b.production), want)

			put(flagLastHop)
			own := reply(b.replication)
			b.exec(own)
			if _, frame, _ := b.exec(own); string(frame[:6]) != string(otherRouter) {
				t.Errorf("by its own interface: to %x", frame[:6])
			}

			put(flagAsRouted | flagEnforceMAC)
			b.run(reply(b.production), nothing)
			b.run(reply(b.replication), nothing)

			nobody := b.replication // as there is no way, the rule's is taken
			nobody.router = net.HardwareAddr{2, 0x72, 0x65, 0x70, 0x6c, 0x79}
			put(flagAsRouted)
			if _, frame, _ := b.exec(reply(nobody)); string(frame[:6]) != string(b.replication.router) {
				t.Errorf("in place of nobody: to %x", frame[:6])
			}
		})
	}
}

// TestRelatedByWay: what the host originates goes by the way that was learnt of who brings the peer's answers, as long as that
// is known. As routed, it goes with nothing.
func TestRelatedByWay(t *testing.T) {
	for _, test := range []struct {
		name          string
		before, learn uint16
		other         bool // router brought the answers before
		want          uint16
		kept          bool // the path of before
	}{
		{name: "the rule's"},
		{name: "learnt since", learn: flagLastHop, want: flagLastHop},
		{name: "forgotten since", before: flagLastHop},
		{name: "another router, by the rule's", other: true},
		{name: "another router, which is answered", before: flagLastHop, other: true, want: flagLastHop, kept: true},
		{name: "another router, which would be answered", other: true, learn: flagLastHop, kept: true},
		{name: "as routed", learn: flagAsRouted, kept: true},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownRelated(n)
			f := b.handshake(n, 0, 0, test.before)
			answered := bpf.DatapathPath{Ifindex: f.Ifindex, Interface: f.Interface, Gateway: f.Gateway, Mac: f.Mac, Flags: f.Flags}
			if test.other {
				answered.Mac = rig.MAC(neighbour)
			}
			b.must(b.SetRecord(n.tuple(udp{}), bpf.DatapathRecord{Heard: b.ago(2), Path: answered, Proof: uint8(bpf.DatapathProofPROOF_ANSWERS)}))
			if test.learn != 0 {
				b.teach(f, test.learn, 1, proven)
			}
			b.must(b.Outbound.Put(&bpf.DatapathNote{Digest: b.Seeds.Digest(n.tuple(udp{})), Sent: b.ago(2), Heard: b.ago(2)}))
			b.exec(ingress(b.replication, n.in(b.second(), udp{})))
			got := b.record(n, udp{})
			if isKept := b.ago(0)-got.Heard > 5; got.Path.Flags != flagGateway|test.want || isKept != test.kept {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestAstray: a SYN-ACK that cannot go by its way has its handshake teach nothing. Its connection is on trial, which waits for
// what leaves by the way.
func TestAstray(t *testing.T) {
	under(t, "no way out", eachFamily, func(t *testing.T, b *bed, n network) {
		f := b.handshake(n, 0, 0, flagAsRouted)
		b.put(halfOpen(f))
		nobody := b.replication
		nobody.router = net.HardwareAddr{2, 0x72, 0x65, 0x70, 0x6c, 0x79}
		b.exec(egress(nobody, n.out(nobody, synAck)))
		b.exec(ingress(b.replication, n.in(b.second(), finalAck)))
		if got := b.known(f); got != (bpf.DatapathLearnt{}) {
			t.Errorf("learnt %+v", got)
		}
	})
	for _, own := range []bool{false, true} {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			f := b.handshake(n, 0, 0, flagLastHop)
			b.put(halfOpen(f))
			b.switchMode(uint8(bpf.DatapathModeMODE_OBSERVE))
			by := b.production
			if own {
				by = b.replication
			}
			b.exec(egress(by, n.out(by, synAck)))
			after, _ := b.snapshot()
			if got := after.HalfOpen[f.Tuple]; got.Attempt&attemptAstray == 0 {
				t.Errorf("attempt %d", got.Attempt)
			}
			data := tcp{flags: "A", seq: ourISN + 1, ack: peerISN + 1, payload: 100}
			b.exec(ingress(b.replication, n.in(b.second(), finalAck)))
			b.exec(egress(by, n.out(by, data)))
			b.exec(ingress(b.replication, n.in(b.second(), tcp{flags: "A", seq: data.ack, ack: data.end()})))
			after, _ = b.snapshot()
			if got := after.Established[f.Tuple]; got.Flags&flagOnTrial == 0 || got.SndUna != data.end() || got.Attempt != attemptFirst|attemptAstray {
				t.Errorf("on trial, once it is enforced: %+v", got)
			}
		})
	}
}

// TestLoopbackAddress: what a socket is asked on an address that only lo has goes as routed, and has a flow for the sake of
// its source, if sources are repaired.
func TestLoopbackAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.must(b.SetOwnAddress(n.self, ownAddress|bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY))
		ignored := once(bpf.DatapathEventEVENT_IGNORED_LOOPBACK)
		for _, m := range []message{syn, echo{}, udp{}} {
			b.renew()
			b.arrives(n, m, effect{events: ignored})
		}
		b.repair(bpf.DatapathSourceRepairREPAIR_WATCH)
		b.renew()
		b.arrives(n, udp{}, effect{events: ignored}) // nobody listens
		bound := listenUDP(t, netip.AddrPortFrom(n.self, selfPort))
		b.arrives(n, udp{}, effect{events: ignored, tables: marked(b, n, udp{})})
		b.exec(ingress(b.replication, n.in(b.replication, udp{})))
		b.leaves(n, udp{}, nothing) // a reply begins nothing of the host's own
		closeSocket(t, bound)
		b.renew()
		defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(n.wildcard(), selfPort)))
		b.exec(ingress(b.replication, n.in(b.replication, udp{})))
		after, _ := b.snapshot()
		if f := after.Connectionless[n.tuple(udp{})]; f.Flags&flagAsRouted == 0 {
			t.Errorf("%+v", f)
		}
		b.leaves(n, udp{}, effect{tables: func(t tables) {
			f := t.Connectionless[n.tuple(udp{})]
			f.State |= stateReplied
			t.Connectionless[f.Tuple] = f
		}})
	})
}
