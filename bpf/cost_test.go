// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// lookupsOfConnection are those of 15 runs of programs: 5 at ingress, 5 that move, 5 at the target. Of the large tables
// there are the tags alone, eleven times one of two lines, and the mark of what is over. Two of the locks are taken: to enter the
// connection, and where the host is found not to have begun.
var lookupsOfConnection = map[string]uint64{
	bpf.DatapathMapNursery: 15, bpf.DatapathMapNurseryTags: 12, bpf.DatapathMapHalfOpenTags: 2, bpf.DatapathMapEstablishedTags: 9,
	bpf.DatapathMapOutbound: 3, bpf.DatapathMapMarks: 2, bpf.DatapathMapFinished: 1, bpf.DatapathMapSetLocks: 2,
	bpf.DatapathMapDevices: 5, bpf.DatapathMapConfiguration: 4, bpf.DatapathMapExclusions: 1, bpf.DatapathMapOwnAddresses: 1, bpf.DatapathMapOnLink: 1,
	bpf.DatapathMapManaged: 7, bpf.DatapathMapInterfaces: 14, bpf.DatapathMapGateways: 5,
	bpf.DatapathMapModeByHand: 5, bpf.DatapathMapPairSlots: 10, bpf.DatapathMapEvents: 2, bpf.DatapathMapHandovers: 15,
	bpf.DatapathMapScratch: 5, bpf.DatapathMapTraceFilter: 17,
}

// These bound, by family, what the runs do together: what was found, and 1 % more. One more copy of an entry exceeds it.
var (
	bytesOfConnection        = map[uint8]uint64{4: 5280, 6: 5983}
	instructionsOfConnection = map[uint8]uint64{4: 6695, 6: 7108}
)

// TestCostOfConnection bounds what the programs do for one short connection: connect, request, answer, close by the
// host first. More than this costs every connection of every host.
func TestCostOfConnection(t *testing.T) {
	eachLacking(t, counting, func(t *testing.T, b *bed, n network) {
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
			var words []bpf.DatapathHandover
			b.must(b.Handovers.Lookup(uint32(0), &words))
			exec("at the target", arrive(b.replication, frame, words[0].Mark))
		}
		in(syn) // whose address is remembered
		b.put()
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

		if diff := cmp.Diff(lookupsOfConnection, total.Lookups); diff != "" {
			t.Errorf("lookups (-want +got):\n%s", diff)
		}
		if runs := total.Calls[bpf.DatapathProgReplypathIngress] + total.Calls[bpf.DatapathProgReplypathEgress]; runs != 15 {
			t.Errorf("%d runs of programs, want 15", runs)
		}
		if most := bytesOfConnection[n.family]; total.Bytes > most {
			t.Errorf("%d bytes are accessed, at most %d were to be", total.Bytes, most)
		}
		if most := instructionsOfConnection[n.family]; total.Instructions > most {
			t.Errorf("%d instructions run, at most %d were to", total.Instructions, most)
		}
		// Of tables only the nursery is entered.
		if entered := total.Calls["insert"]; entered != 0 {
			t.Errorf("%d entries in other tables", entered)
		}
		b.wantYoung(n)
	})
}

// instructionsOfOwn bounds by family what a segment of the host's own costs that leaves as routed, by the interface of its
// address: most of what a host sends.
var instructionsOfOwn = map[uint8]uint64{4: 312, 6: 357}

// TestCostOfHostModel: who does not configure the strong host model pays nothing for it, and who does pays nothing for what
// leaves rightly, nor for replies.
func TestCostOfHostModel(t *testing.T) {
	eachLacking(t, counting, func(t *testing.T, b *bed, n network) {
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
		if diff := cmp.Diff(weak, of()); diff != "" {
			t.Errorf("weak and strong, a reply and what the host originates (-weak +strong):\n%s", diff)
		}
		if got, most := weak[1].Instructions, instructionsOfOwn[n.family]; got > most {
			t.Errorf("%d instructions run for the host's own segment, at most %d were to", got, most)
		}
	})
}

// TestCostOfAnswered: a segment of an answered connection that the strong host model moves, and its answer, cost what a reply
// and its question do. They are counted once, not twice, but the settings are looked at, and whose frame it is: that is a
// lookup more, and a fiftieth of the instructions.
func TestCostOfAnswered(t *testing.T) {
	eachLacking(t, counting, func(t *testing.T, b *bed, n network) {
		exchange := func() rig.Cost {
			b.must(b.ForgetProof())
			_, err := b.Cost()
			b.must(err)
			b.exec(ingress(b.replication, n.in(b.replication, reaction)))
			b.moveBySource(n, segment)
			cost, err := b.Cost()
			b.must(err)
			return cost
		}
		b.put()
		b.must(b.AddFlow(b.Established, b.flow(n, segment, b.replication, 0))) // where programs enter it
		exchange()                                                             // so that counters are there
		reply := exchange()
		b.put()
		b.answeredHere(n)
		exchange()
		own := exchange()
		b.wantAnswered(n, true)
		lookups := func(c rig.Cost) (sum uint64) {
			for _, count := range c.Lookups {
				sum += count
			}
			return sum
		}
		t.Logf("a reply: %d instructions, %d bytes, %d lookups; the host's own: %d, %d, %d", reply.Instructions, reply.Bytes, lookups(reply),
			own.Instructions, own.Bytes, lookups(own))
		if own.Instructions > reply.Instructions*51/50 || own.Bytes > reply.Bytes || lookups(own) > lookups(reply)+1 {
			t.Errorf("the host's own costs more than a reply (-reply +own):\n%s", cmp.Diff(reply, own))
		}
	})
}
