// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// icmpError quotes an inbound packet.
type icmpError struct {
	kind4, kind6 uint8
	quote        []byte // from its IP header on
}

func (icmpError) protocol(n network) layers.IPProtocol { return icmp{}.protocol(n) }

func (m icmpError) layers(_ direction, n network, ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
	if n.family == 4 {
		return []gopacket.SerializableLayer{
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(m.kind4, 3)},
			gopacket.Payload(m.quote),
		}
	}
	header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(m.kind6, 4)}
	check(header.SetNetworkLayerForChecksum(ip))
	return []gopacket.SerializableLayer{header, gopacket.Payload(append(make([]byte, 4), m.quote...))}
}

// about is the error that a port is unreachable.
func (b *bed) about(n network, m message, edits ...edit) icmpError {
	return icmpError{kind4: 3, kind6: 1, quote: n.in(b.replication, m, edits...)[ethernetSize:]}
}

// eachQuoted runs a test for both families and everything that starts a flow, with
// the entry in the table that it is in.
func eachQuoted(t *testing.T, f func(t *testing.T, b *bed, n network, m message, put func(bpf.DatapathFlow))) {
	t.Helper()
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		places := map[string]func(bpf.DatapathFlow) func(tables){"flow": func(f bpf.DatapathFlow) func(tables) { return flowOf(m, f) }}
		if _, ok := m.(tcp); ok {
			places["handshake"] = halfOpen
		} else {
			places["stray"] = func(f bpf.DatapathFlow) func(tables) {
				f.Flags |= flagStray
				return halfOpen(f)
			}
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

// TestErrorQuotesLittle: eight bytes of what the IP header carries are enough, and the
// padding of a short frame is none of them.
func TestErrorQuotesLittle(t *testing.T) {
	eachQuoted(t, func(t *testing.T, b *bed, n network, m message, put func(bpf.DatapathFlow)) {
		for _, size := range []int{8, 7, 0} {
			e := b.about(n, m)
			e.quote = e.quote[:n.ipSize()+size]
			for _, padding := range []int{0, 18} {
				frame := append(n.out(b.production, e), make([]byte, padding)...)
				put(b.flow(n, m, b.replication, 0))
				want := nothing
				if size == 8 {
					want = b.errorMoves(n, e, m, frame)
				}
				b.run(egress(b.production, frame), want)
			}
		}
	})
}

// TestErrorOthers: redirects and what is no error pass, and so do errors that come
// in, whatever they quote.
func TestErrorOthers(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		for kind := range 256 {
			e := b.about(n, udp{})
			e.kind4, e.kind6 = uint8(kind), uint8(kind)
			b.run(ingress(b.backup, n.in(b.backup, e)), nothing)
			if n.family == 4 && (kind == 3 || kind == 11 || kind == 12) || n.family == 6 && kind >= 1 && kind <= 4 {
				continue
			}
			b.run(egress(b.production, n.out(b.production, e)), nothing)
		}
	})
}

// TestErrorQuotesNonsense: what an error quotes may be forged or damaged.
func TestErrorQuotesNonsense(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)),
			connectionlessFlow(b.flow(n, echo{}, b.replication, 0)))
		other := n
		other.peer = n.stranger
		wrongVersion := b.about(n, udp{})
		wrongVersion.quote[0] ^= 0x20
		fragment := b.about(n, udp{payload: 8}, func(h *headers) {
			if h.v4 != nil {
				h.v4.FragOffset = 1
			}
		})
		if n.family == 6 {
			fragment.quote = extend(n.in(b.replication, udp{payload: 8}), later)[ethernetSize:]
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
			t.Run(name, func(t *testing.T) { b.run(egress(b.production, n.out(b.production, e)), nothing) })
		}
		t.Run("to somebody else", func(t *testing.T) {
			b.run(egress(b.production, n.out(b.production, b.about(n, udp{}), destination(n.stranger))), nothing)
		})
		t.Run("idle flow", func(t *testing.T) {
			b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)+2)))
			b.run(egress(b.production, n.out(b.production, b.about(n, udp{}))), nothing)
		})
	})
}

// TestErrorQuotesOptions: the transport header is found behind options and
// extension headers.
func TestErrorQuotesOptions(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		e := b.about(n, udp{payload: 8}, func(h *headers) {
			if h.v4 != nil {
				h.v4.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 1}}
			}
		})
		if n.family == 6 {
			e.quote = extend(n.in(b.replication, udp{payload: 8}), hopByHop, destinations, first)[ethernetSize:]
		}
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		frame := n.out(b.production, e)
		b.run(egress(b.production, frame), b.errorMoves(n, e, udp{}, frame))
	})
}
