// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// moves is the effect of a reply that the kernel sends by one interface and that
// is moved to another, by an entry that was not counted before.
func (b *bed) moves(n network, m message, from, to nic, frame []byte) effect {
	return effect{
		redirect: true,
		frame:    readdressed(frame, to.router, to.MAC),
		pairs: pairs{
			pair(from, to, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC): {Packets: 1, Bytes: uint64(len(frame)), Flows: 1},
		},
		tables: func(t tables) {
			for _, table := range []map[bpf.DatapathTuple]bpf.DatapathFlow{t.HalfOpen, t.Established, t.Connectionless} {
				if f, ok := table[n.tuple(m)]; ok {
					f.State |= stateAsymmetric
					table[n.tuple(m)] = f
				}
			}
		},
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

// eachReply runs a test for both families and every kind of reply, whose flow
// came in by the replication interface.
func eachReply(t *testing.T, f func(t *testing.T, b *bed, n network, m message)) {
	t.Helper()
	for _, m := range repliers {
		t.Run(m.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.put(flowOf(m.message, b.flow(n, m.message, b.replication, 0)))
				f(t, b, n, m.message)
			})
		})
	}
}

func TestReplyAlreadyRight(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.run(egress(b.replication, n.out(b.replication, m)), nothing)
		// The kernel's choice among next hops on the flow's own interface stands.
		b.run(egress(b.replication, n.out(b.replication, m, destinationMAC(neighbour))), nothing)
	})
}

func TestReplyMoved(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		r := egress(b.production, frame)
		r.probe.TCIndex = 0x4321 // somebody else's: comes back at the target
		want := b.moves(n, m, b.production, b.replication, frame)
		want.probed = &rig.Probed{TCIndex: 1, PktType: unix.PACKET_OTHERHOST}
		b.run(r, want)

		// The second packet is no second flow.
		want = b.moves(n, m, b.production, b.replication, frame)
		want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] =
			count{Packets: 1, Bytes: uint64(len(frame))}
		want.tables = nil
		b.run(egress(b.production, frame), want)
	})
}

// TestReplyMovedByHelper: the same frame where the kernel does not show whether
// the packet is shared, and where the program that writes to it is missing.
func TestReplyMovedByHelper(t *testing.T) {
	move := func(t *testing.T, b *bed, n network) {
		m := udp{payload: 100}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
	}
	for _, n := range networks {
		t.Run("old kernel, "+n.name, func(t *testing.T) { move(t, newBed(t, oldKernel), n) })
		t.Run("program missing, "+n.name, func(t *testing.T) {
			b := newBed(t, normal)
			b.must(b.Sender.Delete(uint32(0)))
			t.Cleanup(func() { b.must(b.Sender.Put(uint32(0), b.ReplypathSend)) })
			move(t, b, n)
		})
	}
}

// TestReplyMark: every packet has a mark of its own, and none has 0.
func TestReplyMark(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		for _, test := range []struct{ last, want uint16 }{{0, 1}, {1, 2}, {0xfffe, 0xffff}, {0xffff, 1}} {
			b.setHandover(bpf.DatapathHandover{Mark: test.last})
			r := egress(b.production, n.out(b.production, m))
			r.probe.TCIndex = 0x4321
			_, _, out := b.exec(r)
			if got := rig.ReadProbed(&out).TCIndex; got != test.want {
				t.Errorf("mark after %#x: %#x, want %#x", test.last, got, test.want)
			}
		}
	})
}

func TestReplyFromUnmanagedInterface(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.unmanage(b.production)
		frame := n.out(b.production, m)
		from := b.production
		from.interfaceIndex = 0
		b.run(egress(b.production, frame), b.moves(n, m, from, b.replication, frame))
	})
}

func TestReplyLinkDown(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_LINK_DOWN))
	})
}

// TestReplyLinkDownUnseen: the link has gone, or has come back, and the loader has not seen it. The kernel's word
// counts where its memory can be read.
func TestReplyLinkDownUnseen(t *testing.T) {
	for _, v := range []variant{normal, oldKernel} {
		for _, n := range networks {
			t.Run(fmt.Sprintf("variant %d, ipv%d", v, n.family), func(t *testing.T) {
				b, m := newBed(t, v), udp{payload: 100}
				frame := n.out(b.production, m)
				run := func(moves bool) {
					t.Helper()
					b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
					want := b.stays(n, m, b.production, b.backup, frame, bpf.DatapathOutcomeOUTCOME_LINK_DOWN)
					if moves {
						want = b.moves(n, m, b.production, b.backup, frame)
					}
					b.run(egress(b.production, frame), want)
				}
				b.cutCable(b.backup)
				run(!b.Features.ProbeRead)
				b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Flags = 0 })
				run(false)
				b.setCarrier(b.backup, true)
				run(b.Features.ProbeRead)
				b.manage(b.backup, nil)
				run(true)
				b.setDown(b.backup)
				run(!b.Features.ProbeRead)
			})
		}
	}
}

func TestReplyInterfaceGone(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		want := b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_LINK_DOWN)
		b.unmanage(b.replication)
		b.run(egress(b.production, frame), want)
	})
}

// TestReplyDeviceGone: the device was deleted, or its ifindex is another's by now,
// and the loader has not seen it. The kernel is asked for every interface, and again in
// the next jiffy.
func TestReplyDeviceGone(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		id, frame := uint32(b.replication.interfaceIndex), n.out(b.production, m)
		stays := b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_LINK_DOWN)
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
	})
}

// TestReplyInterfaceReplaced: the record belongs to another life of the ifindex.
func TestReplyInterfaceReplaced(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Ifindex = 999 })
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_LINK_DOWN))
	})
}

// TestReplyMode: the flow's interface decides unless the operator set a mode by hand.
func TestReplyMode(t *testing.T) {
	const (
		configured = uint8(bpf.DatapathModeMODE_CONFIGURED)
		enforce    = uint8(bpf.DatapathModeMODE_ENFORCE)
		observe    = uint8(bpf.DatapathModeMODE_OBSERVE)
	)
	for _, test := range []struct {
		byHand, production, replication uint8
		moved                           bool
	}{
		{configured, enforce, enforce, true},
		{configured, observe, enforce, true},
		{configured, enforce, observe, false},
		{enforce, observe, observe, true},
		{observe, enforce, enforce, false},
	} {
		t.Run(fmt.Sprintf("by hand %d, production %d, replication %d", test.byHand, test.production, test.replication), func(t *testing.T) {
			eachReply(t, func(t *testing.T, b *bed, n network, m message) {
				b.switchMode(bpf.DatapathMode(test.byHand))
				b.manage(b.production, func(r *bpf.DatapathInterface) { r.Mode = test.production })
				b.manage(b.replication, func(r *bpf.DatapathInterface) {
					r.Mode = test.replication
					r.Gateway4, r.Gateway6 = b.replication.gateway(4), b.replication.gateway(6)
				})
				frame := n.out(b.production, m)
				want := b.moves(n, m, b.production, b.replication, frame)
				if !test.moved {
					want = b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_OBSERVE)
				}
				b.run(egress(b.production, frame), want)
			})
		})
	}
}

// TestReplyToBareDevice: the kernel takes the Ethernet header off, whatever it
// says, and no next hop is needed.
func TestReplyToBareDevice(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) {
			r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
			r.NextHop = uint8(gatewayOnly)
		})
		b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{}))
		frame := n.out(b.production, m)
		want := b.moves(n, m, b.production, b.replication, frame)
		want.frame = frame
		b.run(egress(b.production, frame), want)
	})
}

// TestReplyReasonOrder: the reason that is named is the one to mend first.
func TestReplyReasonOrder(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		record := func(r *bpf.DatapathInterface) {
			r.Flags = 0
			r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE)
			r.NextHop = uint8(gatewayOnly)
			r.Mtu = 10
		}
		b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{}))
		for _, step := range []struct {
			mend   func(*bpf.DatapathInterface)
			reason bpf.DatapathOutcome
		}{
			{func(*bpf.DatapathInterface) {}, bpf.DatapathOutcomeOUTCOME_LINK_DOWN},
			{func(r *bpf.DatapathInterface) { r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP) }, bpf.DatapathOutcomeOUTCOME_OBSERVE},
			{func(r *bpf.DatapathInterface) { r.Mode = uint8(bpf.DatapathModeMODE_ENFORCE) }, bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP},
			{func(r *bpf.DatapathInterface) { r.NextHop = uint8(auto) }, bpf.DatapathOutcomeOUTCOME_MTU},
		} {
			previous := record
			record = func(r *bpf.DatapathInterface) { previous(r); step.mend(r) }
			b.manage(b.replication, record)
			b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
			b.run(egress(b.production, frame), b.stays(n, m, b.production, b.replication, frame, step.reason))
		}
	})
}
