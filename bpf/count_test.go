// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

func (b *bed) setHandover(h bpf.DatapathHandover) {
	b.t.Helper()
	b.must(b.ChangeScratch(func(s *bpf.DatapathScratch) { s.Handover = h }))
}

// handOver runs a reply that is moved, and returns the frame as it is on its way to the target.
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
	c := count{Packets: 1, Bytes: uint64(len(frame)), Flows: either[uint64](first, 1, 0)}
	return effect{
		pairs:  pairs{pair(b.production, b.replication, n, m, outcomeCorrected): c},
		tables: b.marked(n, m, stateCorrected, 1),
		probed: leftWith(0x4321),
	}
}

// leftWith is what is seen of a packet that leaves with this tc_index.
func leftWith(tcIndex uint16) *rig.Probed {
	return &rig.Probed{TCIndex: tcIndex, PktType: unix.PACKET_OTHERHOST}
}

// TestArrival: a moved packet is counted where it arrives, even if its flow is gone by now. The word is for one packet.
func TestArrival(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		frame := b.handOver(n, m)
		b.run(arrive(b.replication, frame, 1), b.corrected(n, m, frame, true))
		b.run(arrive(b.replication, frame, 1), effect{probed: leftWith(1)})

		b.exec(arrive(b.production, n.out(b.production, m), 0x4321))
		b.run(arrive(b.replication, frame, 2), b.corrected(n, m, frame, false))

		b.exec(arrive(b.production, n.out(b.production, m), 0x4321))
		b.put()
		want := b.corrected(n, m, frame, false)
		want.tables = nil
		b.run(arrive(b.replication, frame, 3), want)
	})
}

// TestArrivalStacked: what was moved to a macvlan is remembered as moved, though it passes the device below as well. What
// the kernel sends by that device alone is remembered too, and what goes as routed.
func TestArrivalStacked(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.backup.Index })
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		left := func(want uint32) {
			flow, err := b.Established.Find(b.Seeds.Digest(n.tuple(tcp{})))
			b.must(err)
			if outcome := flow.Left % uint32(bpf.DatapathTickLEFT_TICKS); flow.Left == 0 || outcome != want {
				t.Errorf("seen leaving at tick %#x", flow.Left)
			}
		}
		down := egress(b.backup, n.out(b.backup, tcp{}, sourceMAC(b.replication.MAC)))
		b.exec(down)
		left(0)
		frame := b.handOver(n, tcp{})
		const ticks = uint32(bpf.DatapathTickLEFT_TICKS)
		for ticket, begun := uint16(1), b.ago(0); ; ticket++ { // stamps are told apart to so many ticks
			b.exec(arrive(b.replication, frame, ticket))
			b.exec(down)
			if b.ago(0)/ticks == begun/ticks {
				break
			}
			begun = b.ago(0)
			b.exec(arrive(b.production, n.out(b.production, tcp{}), 0x4321))
		}
		left(uint32(bpf.DatapathOutcomeOUTCOME_CORRECTED))
		f := b.flow(n, tcp{}, b.replication, 0)
		f.Flags |= flagAsRouted
		b.put(establishedFlow(f))
		b.leaves(n, tcp{}, nothing)
		left(0)
	})
}

// TestArrivalForged: a mark alone proves nothing; a container can send one.
func TestArrivalForged(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		forged := func(frame []byte, marks ...uint16) {
			for _, mark := range marks {
				b.run(arrive(b.replication, frame, mark), effect{probed: leftWith(mark)})
			}
		}
		forged(n.out(b.replication, m), 1, 2, 0xffff)
		frame := b.handOver(n, m)
		forged(frame, 2, 0xffff)
		b.run(arrive(b.replication, frame, 1), b.corrected(n, m, frame, true))
	})
}

// TestArrivalMissing: what was moved and never came is counted with the next one that is moved.
func TestArrivalMissing(t *testing.T) {
	for name, lost := range map[string]bpf.DatapathOutcome{"unseen": outcomeLost, "link down": outcomeLostLinkDown} {
		under(t, name, eachReply, func(t *testing.T, b *bed, n network, m message) {
			b.handOver(n, m)
			frame := n.out(b.production, m)
			want := b.moves(n, m, b.production, b.replication, frame).again()
			if lost == outcomeLostLinkDown {
				b.cutCable(b.replication)
				b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags &^= interfaceUp })
				want = b.stays(n, m, b.production, b.replication, frame, outcomeLinkDown).again()
			}
			want.pairs[pair(b.production, b.replication, n, m, lost)] = count{Packets: 1, Bytes: uint64(len(frame))}
			b.run(egress(b.production, frame), want)
			if lost == outcomeLost { // else what became of the second packet stands there
				b.wantLeft(n, m, lost)
			}
		})
	}
}

// TestArrivalMissingAndNext: a reply that left by another processor, in the same second, is heeded before one that was lost.
func TestArrivalMissingAndNext(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.handOver(n, m)
		const ticks = uint32(bpf.DatapathTickLEFT_TICKS)
		flow := *b.found(n, m)
		flow.Left = b.ago(0)&^(ticks-1) | uint32(outcomeCorrected)
		if _, isTCP := m.(tcp); isTCP {
			b.put(establishedFlow(flow))
		} else {
			b.put(connectionlessFlow(flow))
		}
		b.perform(egress(b.production, n.out(b.production, m)))
		b.wantLeft(n, m, outcomeCorrected)
	})
}

// TestArrivalUnseen: what was moved to an interface that has no program of ours yet is not taken for lost.
func TestArrivalUnseen(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) {
			r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_UNSEEN)
		})
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

func class(protocol layers.IPProtocol) bpf.DatapathProtocolClass {
	return map[layers.IPProtocol]bpf.DatapathProtocolClass{
		layers.IPProtocolTCP: bpf.DatapathProtocolClassCLASS_TCP, layers.IPProtocolUDP: bpf.DatapathProtocolClassCLASS_UDP, layers.IPProtocolICMPv4: bpf.DatapathProtocolClassCLASS_ICMP,
		layers.IPProtocolICMPv6: bpf.DatapathProtocolClassCLASS_ICMPV6, layers.IPProtocolSCTP: bpf.DatapathProtocolClassCLASS_SCTP,
	}[protocol] // else bpf.DatapathProtocolClassCLASS_OTHER
}

// TestCountWire: a GSO packet counts as the segments that it becomes, with all their headers, at both ends of a move.
func TestCountWire(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m := tcp{flags: "A", payload: 1200}
		b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
		r := egress(b.production, n.out(b.production, m))
		r.gsoSize, r.gsoSegs, r.wireLen = 300, 4, 1600
		want := b.moves(n, m, b.production, b.replication, r.frame)
		b.run(r, want)

		r.via, r.frame = b.replication, readdressed(r.frame, b.replication.router, b.replication.MAC)
		r.probe = rig.Probe{TCIndex: 1}
		b.run(r, effect{
			pairs: pairs{
				pair(b.production, b.replication, n, m, outcomeCorrected): {Packets: 4, Bytes: 1600, Flows: 1},
			},
			tables: b.marked(n, m, stateCorrected, 4),
		})
	})
}

// lookupsOfConnection are those of 15 runs of programs: 5 at ingress, 5 that move, 5 at the target. All looks at buckets are
// into one line of memory, and all at cells into one cell. The first of a pair looks twice for its counter, unless
// that is in a slot.
var lookupsOfConnection = map[string]uint64{
	bpf.DatapathMapBuckets: 41, bpf.DatapathMapCells: 24, bpf.DatapathMapBucketLocks: 6,
	bpf.DatapathMapDevices: 6, bpf.DatapathMapOwnAddresses: 1, bpf.DatapathMapPrefixes: 1,
	bpf.DatapathMapInterfaces: 19, bpf.DatapathMapGateways: 7, bpf.DatapathMapWays: 1, bpf.DatapathMapRecent: 1,
	bpf.DatapathMapPairSlots: 5, bpf.DatapathMapPairs: 2, bpf.DatapathMapEvents: 2,
}

// These bound, by family, what the runs do together: what was found, and 1 % more. One more copy of an entry exceeds it.
var (
	bytesOfConnection        = map[uint8]uint64{4: 8290, 6: 9031}
	instructionsOfConnection = map[uint8]uint64{4: 10330, 6: 10942}
)

// TestCostOfConnection bounds what the programs do for one short connection: connect, request, answer, close by the
// host first. More than this costs every connection of every host.
func TestCostOfConnection(t *testing.T) {
	eachFamilyOn(t, counting, func(t *testing.T, b *bed, n network) {
		total := rig.NewCost()
		exec := func(what string, r run) (int32, []byte) {
			verdict, frame, _ := b.exec(r)
			cost, err := b.Cost()
			b.must(err)
			t.Logf("%s: %d bytes, %d instructions", what, cost.Bytes, cost.Instructions)
			total.Add(cost)
			return verdict, frame
		}
		in := func(m tcp) { exec("in "+m.flags, ingress(b.replication, n.in(b.replication, m))) }
		// What is moved comes by the program at the target, too.
		out := func(m tcp) {
			b.must(b.ForgetProof()) // else the kernel is asked for the link once a jiffy
			verdict, frame := exec("out "+m.flags, egress(b.production, n.out(b.production, m)))
			if verdict != redirect {
				t.Fatalf("verdict %d of what leaves", verdict)
			}
			cpus, err := b.ReadScratch()
			b.must(err)
			exec("at the target", arrive(b.replication, frame, cpus[0].Handover.Ticket))
		}
		b.ownRelated(n)
		in(syn) // whose address is remembered
		b.put()
		b.teach(b.flow(n, syn, b.replication, 0), 0, 0, provenAndSettled) // as by all but the first
		total = rig.NewCost()

		in(syn)
		out(synAck)
		in(finalAck)
		in(tcp{flags: "PA", seq: finalAck.seq, ack: finalAck.ack, payload: 64})
		out(tcp{flags: "A", seq: ourISN + 1, ack: finalAck.seq + 64})
		out(tcp{flags: "PA", seq: ourISN + 1, ack: finalAck.seq + 64, payload: 64})
		out(tcp{flags: "FA", seq: ourISN + 65, ack: finalAck.seq + 64})
		in(tcp{flags: "A", seq: finalAck.seq + 64, ack: ourISN + 66})
		in(tcp{flags: "FA", seq: finalAck.seq + 64, ack: ourISN + 66})
		out(tcp{flags: "A", seq: ourISN + 66, ack: finalAck.seq + 65})

		await.Same(t, "lookups", lookupsOfConnection, total.Lookups)
		await.Same(t, "runs of programs", 15, total.Calls[bpf.DatapathProgReplypathIngress]+total.Calls[bpf.DatapathProgReplypathEgress])
		if most := bytesOfConnection[n.family]; total.Bytes > most {
			t.Errorf("%d bytes are accessed, at most %d were to be", total.Bytes, most)
		}
		if most := instructionsOfConnection[n.family]; total.Instructions > most {
			t.Errorf("%d instructions run, at most %d were to", total.Instructions, most)
		}
		if put, changed, forgotten := total.Calls["do_put"], total.Calls["set_kind"], total.Calls["forget"]; put != 2 || changed != 1 || forgotten > 1 {
			t.Errorf("%d places written, %d changed, %d looked for to be given up; want the handshake's, which becomes the connection's, which closes, and a mark's", put, changed, forgotten)
		}
	})
}

// instructionsOfOwn bounds by family what a segment of the host's own costs that leaves as routed, by the interface
// of its address: most of what a host sends.
var instructionsOfOwn = map[uint8]uint64{4: 376, 6: 432}

// TestCostOfHostModel: who does not configure the strong host model pays nothing for it, and who does pays nothing
// for what leaves rightly, nor for replies.
func TestCostOfHostModel(t *testing.T) {
	eachFamilyOn(t, counting, func(t *testing.T, b *bed, n network) {
		cost := func(r run) rig.Cost {
			b.exec(r) // so that what each CPU keeps in mind is there
			b.must(b.ForgetProof())
			_, err := b.Cost()
			b.must(err)
			b.exec(r)
			cost, err := b.Cost()
			b.must(err)
			return cost
		}
		m := tcp{flags: "PA", seq: 3, payload: 100}
		reply, own := egress(b.production, n.out(b.production, m)), egress(b.replication, n.out(b.replication, m))
		of := func() [2]rig.Cost {
			b.put(establishedFlow(b.remote(n, 0)))
			costs := [2]rig.Cost{cost(reply)}
			b.put()
			b.own(n)
			costs[1] = cost(own)
			return costs
		}
		of() // so that counters are there
		weak := of()
		b.manageStrong(b.replication, nil)
		await.Same(t, "cost of a reply and of what the host originates, with the strong host model", weak, of())
		if got, most := weak[1].Instructions, instructionsOfOwn[n.family]; got > most {
			t.Errorf("%d instructions run for the host's own segment, at most %d were to", got, most)
		}
	})
}

// TestCostOfSelves: two own addresses are kept in mind together, whatever their places.
func TestCostOfSelves(t *testing.T) {
	eachFamilyOn(t, counting, func(t *testing.T, b *bed, n network) {
		b.put()
		sends := func(from netip.Addr) { b.exec(egress(b.replication, n.at(from).out(b.replication, tcp{flags: "A"}))) }
		other := n.self
		for range 150 { // of which some share a place
			other = other.Next()
			b.must(b.ForgetSelves())
			for range 2 {
				_, err := b.Cost()
				b.must(err)
				sends(n.self)
				sends(other)
			}
			cost, err := b.Cost()
			b.must(err)
			if got := cost.Lookups[bpf.DatapathMapOwnAddresses]; got != 0 {
				t.Errorf("%s and %s by turns: looked up %d times", n.self, other, got)
			}
		}
	})
}

// TestCountOnEveryCPU: every CPU counts for itself, readers add up.
func TestCountOnEveryCPU(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m := udp{}
		frame := n.out(b.production, m)
		for cpu := range 2 {
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
			r := egress(b.production, frame)
			r.cpu = cpu
			b.run(r, b.moves(n, m, b.production, b.replication, frame))
		}
		counts, err := b.Counts()
		b.must(err)
		want := bpf.DatapathPairCount{Flows: 2}
		await.Same(t, "pair", want, counts.Pairs[pair(b.production, b.replication, n, m, outcomeAsymmetric)])
	})
}
