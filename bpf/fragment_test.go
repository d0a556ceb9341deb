// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// pieces are a packet that the host sends in two pieces.
type pieces struct{ first, later []byte }

// inPieces makes the frames of a datagram with this identification. What the later one carries does not matter.
func (n network) inPieces(via nic, identification uint32) pieces {
	m := udp{payload: 16}
	if n.family == 4 {
		piece := func(offset uint16, flags layers.IPv4Flag) edit {
			return func(h *headers) { h.V4.Id, h.V4.FragOffset, h.V4.Flags = uint16(identification), offset, flags }
		}
		return pieces{
			n.out(via, m, piece(0, layers.IPv4MoreFragments)),
			n.out(via, m, piece(3, 0)),
		}
	}
	header := func(e extension) extension {
		body := append([]byte(nil), e.Body[:4]...)
		return extension{Kind: e.Kind, Body: binary.BigEndian.AppendUint32(body, identification)}
	}
	return pieces{rig.Extend(n.out(via, m), header(first)), rig.Extend(n.out(via, m), header(last))}
}

// icmpError quotes an inbound packet.
type icmpError struct {
	kind4, kind6 uint8
	quote        []byte // from its IP header on
}

func (icmpError) protocol(n network) layers.IPProtocol { return icmp{}.protocol(n) }

func (m icmpError) layers(_ direction, n network) []gopacket.SerializableLayer {
	if n.family == 4 {
		return []gopacket.SerializableLayer{
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(m.kind4, 3)},
			gopacket.Payload(m.quote),
		}
	}
	header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(m.kind6, 4)}
	return []gopacket.SerializableLayer{header, gopacket.Payload(append(make([]byte, 4), m.quote...))}
}

func (b *bed) about(n network, m message, edits ...edit) icmpError {
	return icmpError{kind4: 3, kind6: 1, quote: n.in(b.replication, m, edits...)[ethernetSize:]}
}

// eachQuoted runs a test for both families and everything that starts a flow, with the entry in the table that it is
// in.
func eachQuoted(t *testing.T, f func(t *testing.T, b *bed, n network, m message, put func(bpf.DatapathFlow))) {
	t.Helper()
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		places := map[string]func(bpf.DatapathFlow) func(tables){
			"flow": func(f bpf.DatapathFlow) func(tables) { return flowOf(m, f) },
		}
		if _, ok := m.(tcp); ok {
			places["handshake"] = halfOpen
		}
		for name, place := range places {
			t.Run(name, func(t *testing.T) {
				b := newBed(t, normal)
				f(t, b, n, m, func(flow bpf.DatapathFlow) { b.put(place(flow)) })
			})
		}
	})
}

// errorMoves is the effect of an error about a packet of the flow of m.
func (b *bed) errorMoves(n network, e icmpError, m message, frame []byte) effect {
	want := b.moves(n, e, b.production, b.replication, frame)
	want.tables = b.moves(n, m, b.production, b.replication, frame).tables
	return want
}

func TestErrorGoesBack(t *testing.T) {
	eachQuoted(t, func(t *testing.T, b *bed, n network, m message, put func(bpf.DatapathFlow)) {
		for _, kinds := range [][2]uint8{{3, 1}, {3, 2}, {11, 3}, {12, 4}} {
			e := b.about(n, m)
			e.kind4, e.kind6 = kinds[0], kinds[1]
			put(b.flow(n, m, b.replication, 0))
			frame := n.out(b.production, e)
			b.run(egress(b.production, frame), b.errorMoves(n, e, m, frame))
			b.run(egress(b.replication, n.out(b.replication, e)), nothing)
		}
	})
}

var fragmentFamily = map[string]story{
	"where the first one could not be moved, the others are not": func(t *testing.T, b *bed, n network) {
		m := udp{}
		frames := n.inPieces(b.production, 1)
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags = 0 })
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		b.run(egress(b.production, frames.first),
			b.stays(n, m, b.production, b.replication, frames.first, outcomeLinkDown))
		b.manage(b.replication, nil) // up again
		want := b.stays(n, m, b.production, b.replication, frames.later, outcomeLinkDown).again()
		b.run(egress(b.production, frames.later), want)
	},
	"identifications are used again": func(t *testing.T, b *bed, n network) {
		frames := n.inPieces(b.production, 1)
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.exec(egress(b.production, frames.first))
		old := b.Seconds(uint32(bpf.DatapathIdleSecondsIDLE_FRAGMENT)) + 1
		b.must(b.ChangeLeads(func(l *bpf.DatapathLead) { l.Seen -= old }))
		b.run(egress(b.production, frames.later), unread(eventUnparsedFragment))
	},
	"what an error quotes may be forged or damaged": func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)),
			connectionlessFlow(b.flow(n, echo{}, b.replication, 0)))
		other := n
		other.peer = n.stranger
		wrongVersion := b.about(n, udp{})
		wrongVersion.quote[0] ^= 0x20
		fragment := b.about(n, udp{payload: 8}, func(h *headers) {
			if h.V4 != nil {
				h.V4.FragOffset = 1
			}
		})
		if n.family == 6 {
			fragment.quote = rig.Extend(n.in(b.replication, udp{payload: 8}), later)[ethernetSize:]
		}
		for name, e := range map[string]icmpError{
			"a packet of somebody else": b.about(other, udp{}),
			"another port":              b.about(n, udp{ports: ports{peer: 7}}),
			"another version":           wrongVersion,
			"a later fragment":          fragment,
			"an echo reply":             b.about(n, echo{reply: true}),
			"an echo of another code":   b.about(n, echo{code: 1}),
			"nothing":                   {kind4: 3, kind6: 1},
			"a byte":                    {kind4: 3, kind6: 1, quote: []byte{0x45}},
		} {
			t.Run(name, func(t *testing.T) { b.leaves(n, e, nothing) })
		}
		t.Run("to somebody else", func(t *testing.T) {
			b.leaves(n, b.about(n, udp{}), nothing, destination(n.stranger))
		})
		t.Run("idle flow", func(t *testing.T) {
			b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, idleConnectionless+2)))
			b.leaves(n, b.about(n, udp{}), nothing)
		})
	},
}

func TestFragmentFamily(t *testing.T) { tell(t, eachFamily, fragmentFamily) }
