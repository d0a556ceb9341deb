// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

// moves is the effect of a reply that the kernel sends by one interface and that is moved to another, by an entry
// that was not counted before.
func (b *bed) moves(n network, m message, from, to nic, frame []byte) effect {
	return effect{
		redirect: true,
		frame:    readdressed(frame, to.router, to.MAC),
		pairs:    pairs{pair(from, to, n, m, outcomeAsymmetric): {Flows: 1}},
		tables: func(t tables) {
			for _, table := range []entries{t.HalfOpen, t.Established, t.Connectionless} {
				if f, ok := table[n.tuple(m)]; ok {
					f.State |= stateAsymmetric
					b.spoken(&f)
					table[n.tuple(m)] = f
				}
			}
		},
	}
}

// spoken has an entry say when the host has spoken, if it belongs to no connection and its peer is silent.
func (b *bed) spoken(f *bpf.DatapathFlow) {
	taken := f.Tuple.Protocol == unix.IPPROTO_UDP && f.Flags&flagNoSocket == 0
	again := f.Flags&flagAssured != 0
	if f.Tuple.Protocol != unix.IPPROTO_TCP && (taken || again) && f.Seen != justNow && b.ran-b.Seconds(1)-f.Seen < yearsAgo {
		f.SndUna = justNow
	}
}

// stays is the effect of a reply that should be moved and is not, for a reason.
func (b *bed) stays(n network, m message, from, to nic, frame []byte, reason bpf.DatapathOutcome) effect {
	e := b.moves(n, m, from, to, frame)
	e.redirect, e.frame = false, nil
	e.pairs[pair(from, to, n, m, reason)] = count{Packets: 1, Bytes: uint64(len(frame))}
	return e
}

// repliers are what the host answers known flows with.
var repliers = []struct {
	name string
	message
}{
	{"tcp", tcp{flags: "PA", seq: 3, payload: 100}},
	{"udp", udp{payload: 100}},
	{"sctp", sctp{}},
	{"echo", echo{reply: true}},
}

// eachReply runs a test for both families and every kind of reply, whose flow came in by the replication interface.
func eachReply(t *testing.T, f func(t *testing.T, b *bed, n network, m message)) {
	t.Helper()
	for _, m := range repliers {
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.put(flowOf(m.message, b.flow(n, m.message, b.replication, 0)))
			f(t, b, n, m.message)
		})
	}
}

// TestReplyMovedByHelper: the same frame where the kernel does not show whether the packet is shared, and where the
// program that writes to it is missing.
func TestReplyMovedByHelper(t *testing.T) {
	move := func(t *testing.T, b *bed, n network) {
		m := udp{payload: 100}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		b.wantMoved(n, m)
	}
	for _, n := range networks {
		t.Run("old kernel, "+n.name, func(t *testing.T) { move(t, newBed(t, oldKernel), n) })
		t.Run("program missing, "+n.name, func(t *testing.T) {
			b := newBed(t, normal)
			b.must(b.Tails.Delete(bpf.DatapathTailTAIL_SEND))
			t.Cleanup(func() { b.must(b.Tails.Put(bpf.DatapathTailTAIL_SEND, b.ReplypathSend)) })
			move(t, b, n)
		})
	}
}

func TestReplyLinkDown(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		b.wantStays(n, m, outcomeLinkDown)
	})
}

// TestTrialOver: whatever the modes, the programs observe from the end of a trial on, and enforce until then.
func TestTrialOver(t *testing.T) {
	for name, until := range map[string]uint64{"no trial": 0, "on trial": math.MaxUint64, "over": 1} {
		for _, byHand := range []uint8{modeConfigured, uint8(bpf.DatapathModeMODE_ENFORCE)} {
			under(t, fmt.Sprintf("%s, by hand %d", name, byHand), eachReply, func(t *testing.T, b *bed, n network, m message) {
				b.switchMode(byHand)
				b.configure(func(s *bpf.DatapathSettings) { s.Until = until })
				if until == 1 {
					b.wantStays(n, m, outcomeObserve)
				} else {
					b.wantMoved(n, m)
				}
			})
		}
	}
}

// wantMoved sends what the kernel sends by the production interface, and what has to leave by the replication interface.
// That is what is left in the tables, if it is more than that the reply was counted.
func (b *bed) wantMoved(n network, m message, left ...func(tables)) {
	b.t.Helper()
	frame := n.out(b.production, m)
	want := b.moves(n, m, b.production, b.replication, frame)
	for _, change := range left {
		want.tables = change
	}
	b.run(egress(b.production, frame), want)
}

// wantStays sends what should leave by the replication interface, and does not for a reason.
func (b *bed) wantStays(n network, m message, reason bpf.DatapathOutcome) {
	b.t.Helper()
	frame := n.out(b.production, m)
	b.run(egress(b.production, frame), b.stays(n, m, b.production, b.replication, frame, reason))
	b.wantLeft(n, m, reason)
}

// wantLeft wants a flow to tell what became of its last packet, just now, and the counter of that to tell when.
func (b *bed) wantLeft(n network, m message, outcome bpf.DatapathOutcome) {
	b.t.Helper()
	const ticks = uint32(bpf.DatapathTickLEFT_TICKS)
	flow := b.found(n, m)
	if now := b.ago(0); flow.Left%ticks != uint32(outcome) || now-flow.Left/ticks*ticks > 10*ticks {
		b.t.Errorf("at tick %#x the last packet left at %#x, want outcome %d", now, flow.Left, outcome)
	}
	b.must(b.EachPairSlot(func(s *bpf.DatapathPairSlot) {
		if now := b.ago(0); s.Pair == pair(b.production, b.replication, n, m, outcome) && now-s.Count.Last > 10*ticks {
			b.t.Errorf("at tick %#x the last packet was counted at %#x", now, s.Count.Last)
		}
	}))
}

// found is the flow of a message that is answered.
func (b *bed) found(n network, m message) *bpf.DatapathFlow {
	b.t.Helper()
	table := b.Connectionless
	if _, isTCP := m.(tcp); isTCP {
		table = b.Established
	}
	flow, err := table.Find(b.Seeds.Digest(n.tuple(m)))
	b.must(err)
	return flow
}

// readdresses is the effect of a reply that the kernel sends by the right interface to the wrong neighbour.
func (b *bed) readdresses(n network, m message, via nic, frame []byte) effect {
	once := count{Packets: 1, Bytes: uint64(len(frame)), Flows: 1}
	return effect{
		frame:  readdressed(frame, via.router, via.MAC),
		pairs:  pairs{pair(via, via, n, m, outcomeAsymmetric): {Flows: 1}, pair(via, via, n, m, outcomeCorrected): once},
		tables: b.marked(n, m, stateAsymmetric|stateCorrected, 1),
	}
}

// marked sets state bits of the message's flow and adds to its corrected packets.
func (b *bed) marked(n network, m message, state uint8, corrected uint64) func(tables) {
	return func(t tables) {
		for _, table := range []entries{t.HalfOpen, t.Established, t.Connectionless} {
			if f, ok := table[n.tuple(m)]; ok {
				b.spoken(&f)
				f.State |= state
				f.Corrected += corrected
				table[n.tuple(m)] = f
			}
		}
	}
}

// eachEnforced runs a test for flows whose MAC is enforced on their own interface: by the last hop, and by one of
// several gateways.
func eachEnforced(t *testing.T, f func(t *testing.T, b *bed, n network, m message)) {
	t.Helper()
	for _, kind := range []struct {
		name  string
		mode  bpf.DatapathNextHopMode
		flags uint16
	}{{"last hop", lastHop, flagEnforceMAC}, {"several gateways", auto, flagEnforceMAC | flagGateway}} {
		under(t, kind.name, eachReply, func(t *testing.T, b *bed, n network, m message) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) { r.NextHop = uint8(kind.mode) })
			flow := b.flow(n, m, b.replication, 0)
			flow.Flags = kind.flags
			b.put(flowOf(m, flow))
			f(t, b, n, m)
		})
	}
}

// Devices without an Ethernet header. BPF_PROG_TEST_RUN takes the protocol from the 13th and 14th byte of what it is
// given, where an IP header has two bytes of the source address: with these networks they say what they should.
var l3Networks = []network{
	{
		name: "ipv4", family: 4,
		peer: netip.MustParseAddr("8.0.2.100"),
		self: netip.MustParseAddr("8.0.4.100"),
	},
	{
		name: "ipv6", family: 6,
		peer: netip.MustParseAddr("2001:db8:86dd:2::100"),
		self: netip.MustParseAddr("2001:db8:86dd:4::100"),
	},
}

// eachL3 runs a test for both families on a bed whose replication interface has no header.
func eachL3(t *testing.T, f func(*testing.T, *bed, network)) {
	t.Helper()
	for _, n := range l3Networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, normal)
			b.must(b.SetOwnAddress(n.self, ownAddress))
			b.manage(b.replication, func(r *bpf.DatapathInterface) {
				r.Flags |= noHeader
				r.Mac = [6]uint8{}
				r.Gateways4, r.Gateways6, r.Gateway4, r.Gateway6 = 0, 0, 0, 0
			})
			f(t, b, n)
		})
	}
}

// l3 runs a program for such devices on the frame without its Ethernet header, and with some padding: the test run
// wants a whole IP header after 14 bytes.
func l3(program string, via nic, frame []byte) run {
	host := uint32(unix.PACKET_HOST)
	r := run{program: program, via: via, frame: append(frame[ethernetSize:], make([]byte, ethernetSize)...)}
	r.probe.PktType = &host // the test run saw a MAC address in the IP header
	return r
}

func ingressL3(via nic, frame []byte) run { return l3(bpf.DatapathProgReplypathIngressL3, via, frame) }

func egressL3(via nic, frame []byte) run { return l3(bpf.DatapathProgReplypathEgressL3, via, frame) }

var replyReply = map[string]messageStory{
	"every packet has a mark of its own, and none has 0": func(t *testing.T, b *bed, n network, m message) {
		for _, test := range []struct{ last, want uint16 }{{0, 1}, {1, 2}, {0xfffe, 0xffff}, {0xffff, 1}} {
			b.setHandover(bpf.DatapathHandover{Ticket: test.last})
			r := egress(b.production, n.out(b.production, m))
			r.probe.TCIndex = 0x4321
			_, _, out := b.exec(r)
			await.Same(t, fmt.Sprintf("mark after %#x", test.last), test.want, rig.ReadProbed(&out).TCIndex)
		}
	},
	"reply interface gone": func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		want := b.stays(n, m, b.production, b.replication, frame, outcomeLinkDown)
		b.unmanage(b.replication)
		b.run(egress(b.production, frame), want)
	},
	"another has the index of the reply interface": func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		want := b.stays(n, m, b.production, b.replication, frame, outcomeLinkDown)
		other := b.replication
		other.id = 9
		b.manage(other, nil)
		b.run(egress(b.production, frame), want)
	},
	// The kernel is asked for every interface, and again in the next jiffy.
	"the device has gone, unseen by the loader": func(t *testing.T, b *bed, n network, m message) {
		id, frame := uint32(b.replication.id), n.out(b.production, m)
		stays := b.stays(n, m, b.production, b.replication, frame, outcomeLinkDown)
		moves := b.moves(n, m, b.production, b.replication, frame)
		run := func(want effect) {
			t.Helper()
			b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
			b.run(egress(b.production, frame), want)
		}
		run(moves)
		b.must(host.Do(func() error { return b.SetDevice(id, b.production.Index) }))
		run(stays)
		b.must(b.SetDevice(id, 0))
		run(stays)

		b.put(flowOf(m, b.flow(n, m, b.backup, 0))) // which is proven, and no other is by that
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.backup, frame))
		run(stays)
	},
}

func TestReplyReply(t *testing.T) { tell(t, eachReply, replyReply) }

// TestReplyGetsHeader: a packet without an Ethernet header gets one where the interface has it.
func TestReplyGetsHeader(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		m := udp{payload: 30}
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		r := egressL3(b.replication, n.out(b.replication, m))
		want := b.moves(n, m, b.replication, b.backup, r.frame)
		kind := either(n.family == 6, []byte{0x86, 0xdd}, []byte{8, 0})
		want.frame = slices.Concat(b.backup.router, b.backup.MAC, kind, r.frame)
		b.run(r, want)
	})
}
