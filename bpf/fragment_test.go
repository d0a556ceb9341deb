// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// fragments are a packet that the host sends in two pieces.
type pieces struct{ first, later []byte }

// inPieces makes the frames of a datagram with this identification. What the later
// one carries does not matter.
func (n network) inPieces(via nic, identification uint32) pieces {
	m := udp{payload: 16}
	if n.family == 4 {
		piece := func(offset uint16, flags layers.IPv4Flag) edit {
			return func(h *headers) { h.v4.Id, h.v4.FragOffset, h.v4.Flags = uint16(identification), offset, flags }
		}
		return pieces{
			n.out(via, m, piece(0, layers.IPv4MoreFragments)),
			n.out(via, m, piece(3, 0)),
		}
	}
	header := func(e extension) extension {
		body := append([]byte(nil), e.body[:4]...)
		return extension{e.kind, binary.BigEndian.AppendUint32(body, identification)}
	}
	return pieces{extend(n.out(via, m), header(first)), extend(n.out(via, m), header(last))}
}

const notFirst = bpf.DatapathEventEVENT_UNPARSED_FRAGMENT

// TestFragmentsMoved: the later ones follow the first.
func TestFragmentsMoved(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m := udp{}
		one, two := n.inPieces(b.production, 1), n.inPieces(b.production, 2)
		again := func(frame []byte) effect {
			want := b.moves(n, m, b.production, b.replication, frame)
			want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] =
				count{Packets: 1, Bytes: uint64(len(frame))}
			want.tables = nil
			return want
		}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		b.run(egress(b.production, one.later), unread(notFirst)) // nobody has seen the first
		b.run(egress(b.production, one.first), b.moves(n, m, b.production, b.replication, one.first))
		b.run(egress(b.production, one.later), again(one.later))
		b.run(egress(b.production, one.later), again(one.later))
		b.run(egress(b.production, two.later), unread(notFirst)) // of another packet
		b.run(egress(b.replication, n.inPieces(b.replication, 1).later), nothing)
	})
}

// TestFragmentsStay: where the first one could not be moved, the others are not.
func TestFragmentsStay(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m := udp{}
		frames := n.inPieces(b.production, 1)
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		b.run(egress(b.production, frames.first),
			b.stays(n, m, b.production, b.replication, frames.first, bpf.DatapathOutcomeOUTCOME_LINK_DOWN))
		b.manage(b.replication, nil) // up again
		want := b.stays(n, m, b.production, b.replication, frames.later, bpf.DatapathOutcomeOUTCOME_LINK_DOWN)
		want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] =
			count{Packets: 1, Bytes: uint64(len(frames.later))}
		want.tables = nil
		b.run(egress(b.production, frames.later), want)
	})
}

// TestFragmentsReaddressed: all of them get the MAC of the next hop that has to be
// enforced.
func TestFragmentsReaddressed(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frames := n.inPieces(b.replication, 1)
		flow := b.flow(n, udp{}, b.replication, 0)
		flow.Flags = flow.Flags&^flagGateway | flagEnforceMAC
		flow.Mac = [6]uint8{2, 0, 0, 0, 9, 9}
		b.put(connectionlessFlow(flow))
		for _, frame := range [][]byte{frames.first, frames.later} {
			_, got, _ := b.exec(egress(b.replication, frame))
			if [6]byte(got[:6]) != flow.Mac {
				t.Errorf("destination %x, want %x", got[:6], flow.Mac)
			}
		}
	})
}

// TestFragmentsOfGoneFlow: of an entry that was pushed out, and of one whose place
// another flow has.
func TestFragmentsOfGoneFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frames := n.inPieces(b.production, 1)
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.exec(egress(b.production, frames.first))
		b.must(b.SetTables(newTables()))
		b.run(egress(b.production, frames.later), unread(notFirst))
	})
}

// TestFragmentsOutdated: identifications are used again.
func TestFragmentsOutdated(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frames := n.inPieces(b.production, 1)
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.exec(egress(b.production, frames.first))
		b.must(b.AgeFragments(b.Seconds(uint32(bpf.DatapathIdleSecondsIDLE_FRAGMENT)) + 1))
		b.run(egress(b.production, frames.later), unread(notFirst))
	})
}

// fragmentSet is the set of the map in which a datagram in pieces is noted: see
// fragment_key() of src/fragment.h.
func (b *bed) fragmentSet(n network, identification uint32) uint32 {
	inside, header := uint8(layers.IPProtocolUDP), make([]byte, 4)
	if n.family == 4 {
		id := binary.BigEndian.AppendUint16(nil, uint16(identification))
		binary.NativeEndian.PutUint32(header, uint32(binary.NativeEndian.Uint16(id)))
	} else {
		inside = uint8(layers.IPProtocolIPv6Fragment)
		binary.BigEndian.PutUint32(header, identification)
	}
	key := n.tuple(udp{})
	key.PeerPort, key.SelfPort = binary.NativeEndian.Uint16(header), binary.NativeEndian.Uint16(header[2:])
	key.Protocol = inside
	set, _ := bpf.Sets(b.Seeds.Digest(key), b.Fragments.MaxEntries())
	return set
}

// TestFragmentsOfManyPackets: where there is no room, the packet that was noted first
// makes it, however many come at the same time.
func TestFragmentsOfManyPackets(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		var packets []pieces // one more than there is room for
		for id := uint32(1); len(packets) <= ways; id++ {
			if b.fragmentSet(n, id) == b.fragmentSet(n, 1) {
				packets = append(packets, n.inPieces(b.production, id))
			}
		}
		isMoved := func(frame []byte) bool {
			verdict, _, _ := b.exec(egress(b.production, frame))
			return verdict == redirect
		}
		note := func(packets ...pieces) {
			for _, p := range packets {
				if !isMoved(p.first) {
					t.Error("a first fragment is not moved")
				}
			}
		}
		wantKnown := func(unknown int) {
			for i, p := range packets {
				if moved := isMoved(p.later); moved == (i == unknown) {
					t.Errorf("packet %d of %d: its later fragment is moved: %v", i, len(packets), moved)
				}
			}
		}
		note(packets...)
		wantKnown(0)
		note(packets[1], packets[0]) // known already, and the first one again
		wantKnown(2)
	})
}
