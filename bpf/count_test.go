// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"maps"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// class is the name under which the metrics count a protocol.
func class(protocol layers.IPProtocol) bpf.DatapathProtocolClass {
	switch protocol {
	case layers.IPProtocolTCP:
		return bpf.DatapathProtocolClassCLASS_TCP
	case layers.IPProtocolUDP:
		return bpf.DatapathProtocolClassCLASS_UDP
	case layers.IPProtocolICMPv4:
		return bpf.DatapathProtocolClassCLASS_ICMP
	case layers.IPProtocolICMPv6:
		return bpf.DatapathProtocolClassCLASS_ICMPV6
	case layers.IPProtocolSCTP:
		return bpf.DatapathProtocolClassCLASS_SCTP
	default:
		return bpf.DatapathProtocolClassCLASS_OTHER
	}
}

// TestCountOtherProtocol: what has no name of its own in the metrics.
func TestCountOtherProtocol(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m := raw{layers.IPProtocolGRE, make([]byte, 30)}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
	})
}

// TestCountWire: a GSO packet counts as the segments that it becomes, with all
// their headers, at both ends of a move.
func TestCountWire(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m := tcp{flags: "A", payload: 1200}
		b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
		r := egress(b.production, n.out(b.production, m))
		r.gsoSize, r.gsoSegs, r.wireLen = 300, 4, 1600
		want := b.moves(n, m, b.production, b.replication, r.frame)
		want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] =
			count{Packets: 4, Bytes: 1600, Flows: 1}
		b.run(r, want)

		r.via, r.frame = b.replication, readdressed(r.frame, b.replication.router, b.replication.MAC)
		r.probe = rig.Probe{TCIndex: 1}
		b.run(r, effect{
			pairs: pairs{
				pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_CORRECTED): {Packets: 4, Bytes: 1600, Flows: 1},
			},
			tables: b.marked(n, m, stateCorrected, 4),
		})
	})
}

// TestCountCPUs: every CPU counts for itself, readers add up.
func TestCountCPUs(t *testing.T) {
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
		want := bpf.DatapathPairCount{
			Pair:    pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC),
			Packets: 2, Bytes: 2 * uint64(len(frame)), Flows: 2,
		}
		if got := counts.Pairs[want.Pair]; got != want {
			t.Errorf("pair %+v, want %+v", got, want)
		}
	})
}

// slot is where a pair is counted, as count_pair() in src/count.h finds it.
func slot(p bpf.DatapathPair) uint64 {
	bytes := binary.NativeEndian.AppendUint16(nil, p.From)
	bytes = binary.NativeEndian.AppendUint16(bytes, p.To)
	bytes = append(bytes, p.Family, p.Protocol, p.Outcome, p.Pad)
	return binary.NativeEndian.Uint64(bytes) * 0x9e3779b97f4a7c15 >> 54
}

// sharers are interfaces, the first of them the replication interface, to which
// a moved packet is counted in the same slot.
func (b *bed) sharers(n network, m message, count int) []nic {
	asymmetric := func(to nic) bpf.DatapathPair {
		return pair(b.production, to, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)
	}
	sharers := []nic{b.replication}
	for to := b.replication; len(sharers) < count && to.interfaceIndex < 4095; {
		to.interfaceIndex++
		if slot(asymmetric(to)) == slot(asymmetric(b.replication)) {
			sharers = append(sharers, to)
		}
	}
	if len(sharers) < count {
		b.t.Fatalf("only %d pairs share a slot", len(sharers))
	}
	return sharers
}

// countTo runs a packet whose flow belongs to this record of the replication interface.
func (b *bed) countTo(n network, m message, to nic, want func(effect) effect) {
	b.t.Helper()
	b.must(b.ForgetHandover()) // else what was moved before is counted as lost
	b.setInterface(to, rig.Record(to.Device, 0))
	flow := b.flow(n, m, to, 0)
	flow.Gateway = b.replication.gateway(n.family)
	b.put(flowOf(m, flow))
	frame := n.out(b.production, m)
	b.run(egress(b.production, frame), want(b.moves(n, m, b.production, to, frame)))
}

// TestCountSharedSlot: pairs whose slot is another's are counted in the hash.
func TestCountSharedSlot(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m := udp{}
		same := func(e effect) effect { return e }
		sharers := b.sharers(n, m, 3)
		for range 2 {
			for _, to := range sharers {
				b.countTo(n, m, to, same)
			}
		}
		inHash := 0
		for entries, key, value := b.Pairs.Iterate(), (bpf.DatapathPair{}), []bpf.DatapathPairCount(nil); entries.Next(&key, &value); {
			inHash++
		}
		if inHash != len(sharers)-1 {
			t.Errorf("%d pairs in the hash, want %d", inHash, len(sharers)-1)
		}
	})
}

// TestCountFull: a packet that cannot be counted is moved all the same, and that
// is counted.
func TestCountFull(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b, m := newBed(t, onePair), udp{}
			sharers := b.sharers(n, m, 3)
			for _, to := range sharers[:2] {
				b.countTo(n, m, to, func(e effect) effect { return e })
			}
			b.countTo(n, m, sharers[2], func(e effect) effect {
				maps.DeleteFunc(e.pairs, func(bpf.DatapathPair, count) bool { return true })
				e.events = once(bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER)
				return e
			})
		})
	}
}
