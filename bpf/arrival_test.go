// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// setHandover leaves word for the target on every CPU.
func (b *bed) setHandover(h bpf.DatapathHandover) {
	b.t.Helper()
	words := make([]bpf.DatapathHandover, ebpf.MustPossibleCPU())
	for i := range words {
		words[i] = h
	}
	b.must(b.Handovers.Put(uint32(0), words))
}

// handOver runs a reply that is moved, and returns the frame as it is on its way
// to the target.
func (b *bed) handOver(n network, m message) []byte {
	b.t.Helper()
	frame := n.out(b.production, m)
	r := egress(b.production, frame)
	r.probe.TCIndex = 0x4321
	b.run(r, b.moves(n, m, b.production, b.replication, frame))
	return readdressed(frame, b.replication.router, b.replication.MAC)
}

// arrive runs a frame at the target with this tc_index.
func arrive(via nic, frame []byte, tcIndex uint16) run {
	r := egress(via, frame)
	r.probe.TCIndex = tcIndex
	return r
}

// corrected is the effect of a packet at its target.
func (b *bed) corrected(n network, m message, frame []byte, first bool) effect {
	c := count{Packets: 1, Bytes: uint64(len(frame))}
	if first {
		c.Flows = 1
	}
	return effect{
		pairs:  pairs{pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_CORRECTED): c},
		tables: b.marked(n, m, stateCorrected, 1),
		probed: &rig.Probed{TCIndex: 0x4321, PktType: unix.PACKET_OTHERHOST},
	}
}

func TestArrival(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		frame := b.handOver(n, m)
		b.run(arrive(b.replication, frame, 1), b.corrected(n, m, frame, true))

		b.exec(arrive(b.production, n.out(b.production, m), 0x4321))
		b.run(arrive(b.replication, frame, 2), b.corrected(n, m, frame, false))
	})
}

// TestArrivalTwice: the word is for one packet.
func TestArrivalTwice(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		frame := b.handOver(n, m)
		b.run(arrive(b.replication, frame, 1), b.corrected(n, m, frame, true))
		b.run(arrive(b.replication, frame, 1), effect{probed: &rig.Probed{TCIndex: 1, PktType: unix.PACKET_OTHERHOST}})
	})
}

// TestArrivalForged: a mark alone proves nothing; a container can send one.
func TestArrivalForged(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		own := n.out(b.replication, m)
		for _, mark := range []uint16{1, 2, 0xffff} {
			b.run(arrive(b.replication, own, mark), effect{probed: &rig.Probed{TCIndex: mark, PktType: unix.PACKET_OTHERHOST}})
		}
		frame := b.handOver(n, m)
		b.run(arrive(b.replication, frame, 2), effect{probed: &rig.Probed{TCIndex: 2, PktType: unix.PACKET_OTHERHOST}})
		b.run(arrive(b.replication, frame, 0xffff), effect{probed: &rig.Probed{TCIndex: 0xffff, PktType: unix.PACKET_OTHERHOST}})
		b.run(arrive(b.replication, frame, 1), b.corrected(n, m, frame, true))
	})
}

// TestArrivalElsewhere: a packet with the mark at another interface is not the one.
func TestArrivalElsewhere(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.handOver(n, m)
		frame := n.out(b.backup, m)
		want := b.moves(n, m, b.backup, b.replication, frame)
		want.tables = nil // counted as a flow by now
		asymmetric := pair(b.backup, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)
		want.pairs[asymmetric] = count{Packets: 1, Bytes: uint64(len(frame))}
		want.probed = &rig.Probed{TCIndex: 2, PktType: unix.PACKET_OTHERHOST}
		b.run(arrive(b.backup, frame, 1), want)
	})
}

// TestArrivalEvicted: the packet counts even if its flow is gone by now.
func TestArrivalEvicted(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		frame := b.handOver(n, m)
		b.must(b.SetTables(newTables()))
		want := b.corrected(n, m, frame, false)
		want.tables = nil
		b.run(arrive(b.replication, frame, 1), want)
	})
}

// TestArrivalHalfOpen: a SYN-ACK counts for its half-open flow.
func TestArrivalHalfOpen(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, tcp{}, b.replication, 0)
		b.put(halfOpen(flow))
		frame := n.out(b.production, synAck)
		b.exec(egress(b.production, frame))
		frame = readdressed(frame, b.replication.router, b.replication.MAC)
		want := b.corrected(n, synAck, frame, true)
		want.probed = &rig.Probed{PktType: unix.PACKET_OTHERHOST}
		b.run(arrive(b.replication, frame, 1), want)
	})
}

// TestArrivalDeliveryTime: before 5.18 a redirect forgets when TCP wanted a packet to
// leave. The target puts that back, where nobody has said otherwise meanwhile.
func TestArrivalDeliveryTime(t *testing.T) {
	const sender, other = 1_000_000, 2_000_000
	for _, test := range []struct {
		name       string
		kernel     variant
		before, at uint64 // at the interface that the kernel chose, and at the target
		putBack    uint64 // 0: nothing
	}{
		{"none", oldKernel, 0, 0, 0},
		{"forgotten", oldKernel, sender, 0, sender},
		{"set by another program", oldKernel, sender, other, 0},
		{"kept by the kernel", normal, sender, sender, 0},
		{"taken away", normal, sender, 0, 0},
	} {
		for _, n := range networks {
			t.Run(test.name+", "+n.name, func(t *testing.T) {
				b, m := newBed(t, test.kernel), udp{payload: 100}
				b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
				frame := n.out(b.production, m)
				leaving := egress(b.production, frame)
				leaving.tstamp = test.before
				b.run(leaving, b.moves(n, m, b.production, b.replication, frame))

				frame = readdressed(frame, b.replication.router, b.replication.MAC)
				arriving, want := arrive(b.replication, frame, 1), b.corrected(n, m, frame, true)
				arriving.tstamp, want.tstamp = test.at, test.putBack
				want.probed.TCIndex = 0
				b.run(arriving, want)
			})
		}
	}
}

// TestArrivalMissing: what was moved and never came is counted with the next one that is moved.
func TestArrivalMissing(t *testing.T) {
	for _, test := range []struct {
		name string
		up   bool
		want bpf.DatapathOutcome
	}{{"unseen", true, bpf.DatapathOutcomeOUTCOME_LOST}, {"link down", false, bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN}} {
		t.Run(test.name, func(t *testing.T) {
			eachReply(t, func(t *testing.T, b *bed, n network, m message) {
				b.handOver(n, m)
				frame := n.out(b.production, m)
				want := b.moves(n, m, b.production, b.replication, frame)
				if !test.up {
					b.cutCable(b.replication)
					b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags &^= interfaceUp })
					want = b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_LINK_DOWN)
				}
				want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] =
					count{Packets: 1, Bytes: uint64(len(frame))}
				want.pairs[pair(b.production, b.replication, n, m, test.want)] = count{Packets: 1, Bytes: uint64(len(frame))}
				want.tables = nil
				b.run(egress(b.production, frame), want)
			})
		})
	}
}

// TestArrivalUnseen: what was moved to an interface that has no program of ours yet is not taken for lost.
func TestArrivalUnseen(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_UNSEEN) })
		b.handOver(n, m)
		b.manage(b.replication, func(*bpf.DatapathInterface) {})
		done := b.perform(egress(b.production, n.out(b.production, m)))
		for p := range pairDelta(done.counted, done.counts) {
			if isLost(p) {
				t.Errorf("%+v is taken for lost", p)
			}
		}
	})
}
