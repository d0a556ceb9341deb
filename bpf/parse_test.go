// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// admits is the effect of a packet that starts a connectionless flow.
func (b *bed) admits(n network, m message, via nic) effect {
	return effect{
		events: once(bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS),
		tables: connectionlessFlow(b.born(n, m, via)),
	}
}

// admitsServed is admits of a datagram that a UDP socket takes.
func (b *bed) admitsServed(n network, via nic) effect {
	b.t.Helper()
	f := b.born(n, udp{}, via)
	f.Flags &^= flagNoSocket
	return effect{
		events: once(bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS),
		tables: connectionlessFlow(f),
	}
}

// unread is the effect of a packet that cannot be read.
func unread(event bpf.DatapathEvent) effect {
	return effect{events: once(event)}
}

var (
	truncated = unread(bpf.DatapathEventEVENT_UNPARSED_TRUNCATED)
	malformed = unread(bpf.DatapathEventEVENT_UNPARSED_MALFORMED)
	nothing   = effect{}
)

func TestParseOtherFrames(t *testing.T) {
	b := newBed(t, normal)
	payload := append(append(net.HardwareAddr{}, b.replication.MAC...), b.replication.router...)
	for _, test := range []struct {
		name string
		kind layers.EthernetType
	}{
		{"arp", layers.EthernetTypeARP},
		{"lldp", layers.EthernetTypeLinkLayerDiscovery},
		{"mpls", layers.EthernetTypeMPLSUnicast},
		{"unknown", 0x88b5},
		{"length instead of type", 46},
		{"tag in the frame", layers.EthernetTypeDot1Q},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			frame := binary.BigEndian.AppendUint16(slices.Clone(payload), uint16(test.kind))
			frame = append(frame, networks[0].in(b.replication, udp{})[ethernetSize:]...)
			b.run(ingress(b.replication, frame), nothing)
			b.run(egress(b.production, frame), nothing)
		})
	}
}

// TestParsePacketType: TC sees frames for other stations, and those for several.
func TestParsePacketType(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, mac := range []string{"02:00:00:00:00:99", "01:00:5e:00:00:01", "33:33:00:00:00:01", "ff:ff:ff:ff:ff:ff"} {
			address, err := net.ParseMAC(mac)
			b.must(err)
			b.run(ingress(b.replication, n.in(b.replication, udp{}, destinationMAC(address))), nothing)
		}
		for kind := range uint32(unix.PACKET_OTHERHOST + 1) {
			r := ingress(b.replication, n.in(b.replication, udp{}))
			r.probe.PktType = &kind
			want := nothing
			if kind == unix.PACKET_HOST {
				want = b.admits(n, udp{}, b.replication)
			}
			want.probed = &rig.Probed{PktType: kind}
			b.run(r, want)
		}
	})
}

// TestParseVLAN: a frame with a tag belongs to the VLAN device; tag 0 is none.
func TestParseVLAN(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, test := range []struct {
			tci  uint16
			ours bool
		}{
			{0x0001, false},
			{0x0800, false},
			{0x0fff, false},
			{0xe064, false},
			{0x0000, true},
			{0xe000, true},
			{0x1000, true},
		} {
			t.Run(fmt.Sprintf("%#04x", test.tci), func(t *testing.T) {
				b := newBed(t, normal)
				r := ingress(b.replication, n.in(b.replication, udp{}))
				r.probe.VLAN = &test.tci
				want := nothing
				if test.ours {
					want = b.admits(n, udp{}, b.replication)
				}
				want.probed = &rig.Probed{VLANPresent: true, VLANTCI: test.tci}
				b.run(r, want)

				b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
				r = egress(b.production, n.out(b.production, udp{}))
				r.probe.VLAN = &test.tci
				want = nothing
				want.probed = &rig.Probed{VLANPresent: true, VLANTCI: test.tci, PktType: unix.PACKET_OTHERHOST}
				if test.ours {
					probed := want.probed
					want = b.moves(n, udp{}, b.production, b.replication, r.frame)
					want.probed = probed
					want.probed.TCIndex = 1 // the first mark
				}
				b.run(r, want)
			})
		}
	})
}

func TestParseIPv4Options(t *testing.T) {
	n := networks[0]
	for words := 1; words <= 10; words++ {
		t.Run(fmt.Sprintf("%d words", words), func(t *testing.T) {
			b := newBed(t, normal)
			options := func(h *headers) {
				for range words * 4 {
					h.v4.Options = append(h.v4.Options, layers.IPv4Option{OptionType: 1})
				}
			}
			b.run(ingress(b.replication, n.in(b.replication, udp{}, options)), b.admits(n, udp{}, b.replication))
		})
	}
}

func TestParseIPv4Malformed(t *testing.T) {
	n := networks[0]
	for _, test := range []struct {
		name   string
		change func(frame []byte) []byte
		want   effect
	}{
		{"version 5", setByte(ethernetSize, 0x55), malformed},
		{"version 6", setByte(ethernetSize, 0x65), malformed},
		{"no header length", setByte(ethernetSize, 0x40), malformed},
		{"header of four words", setByte(ethernetSize, 0x44), malformed},
		{"header longer than the packet", setByte(ethernetSize, 0x4f), malformed},
		{"total length 0", setTotal(n, 0), malformed},
		{"total length shorter than the header", setTotal(n, 19), malformed},
		{"nothing after the header", setTotal(n, 20), malformed},
		{"part of a UDP header", setTotal(n, 27), malformed},
		{"total length beyond the frame", setTotal(n, 29), truncated},
		{"total length far beyond the frame", setTotal(n, 0xffff), truncated},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, normal)
			b.run(ingress(b.replication, test.change(n.in(b.replication, udp{}))), test.want)
			b.run(egress(b.production, test.change(n.out(b.production, udp{}))), test.want)
		})
	}
}

func TestParseIPv6Malformed(t *testing.T) {
	n := networks[1]
	for _, test := range []struct {
		name   string
		change func(frame []byte) []byte
		want   effect
	}{
		{"version 4", setByte(ethernetSize, 0x40), malformed},
		{"version 0", setByte(ethernetSize, 0x00), malformed},
		{"payload length 0", setTotal(n, 0), malformed},
		{"part of a UDP header", setTotal(n, 7), malformed},
		{"payload length beyond the frame", setTotal(n, 9), truncated},
		{"payload length far beyond the frame", setTotal(n, 0xffff), truncated},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, normal)
			b.run(ingress(b.replication, test.change(n.in(b.replication, udp{}))), test.want)
			b.run(egress(b.production, test.change(n.out(b.production, udp{}))), test.want)
		})
	}
}

func setByte(offset int, value byte) func([]byte) []byte {
	return func(frame []byte) []byte {
		frame[offset] = value
		return frame
	}
}

func setTotal(n network, length uint16) func([]byte) []byte {
	return func(frame []byte) []byte { return n.setLength(frame, length) }
}

// TestParsePadding: an Ethernet frame has at least 60 bytes, whatever the packet's length.
func TestParsePadding(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frame := append(n.in(b.replication, udp{}), make([]byte, 18)...)
		b.run(ingress(b.replication, frame), b.admits(n, udp{}, b.replication))
	})
}

// TestParseTCPPayload: padding is not payload. What a SYN-ACK carries counts for
// the ACK that answers it, so that payload shows in snd_nxt.
func TestParseTCPPayload(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, tcp{}, b.replication, 0)
		b.put(halfOpen(flow))
		answer := tcp{flags: "SA", seq: 1000, payload: 10}
		answer.options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
		frame := append(n.out(b.replication, answer), make([]byte, 6)...)
		flow.State, flow.SndUna, flow.SndNxt = stateAnswered, 1000, 1011
		b.run(egress(b.replication, frame), effect{tables: halfOpen(flow)})
	})
}

func TestParseTCPDataOffset(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		offset := ethernetSize + n.ipSize() + 12
		for _, words := range []byte{0, 4, 6, 15} {
			frame := n.in(b.replication, tcp{flags: "S"})
			frame[offset] = words << 4
			b.run(ingress(b.replication, frame), malformed)
		}
	})
}

// TestParseTruncated cuts packets at every byte of their headers.
func TestParseTruncated(t *testing.T) {
	for _, m := range []struct {
		name string
		message
		size int // of its header
	}{
		{"tcp", tcp{flags: "S"}, 20},
		{"udp", udp{}, 8},
		{"sctp", sctp{}, 8}, // the ports are all that is read of twelve
		{"echo", echo{}, 8},
	} {
		t.Run(m.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				in, out := n.in(b.replication, m), n.out(b.production, m)
				headers := ethernetSize + n.ipSize() + m.size
				for size := ethernetSize; size < len(in); size++ {
					b.run(cut(ingress(b.replication, in), size), cutOff(truncated, in, size))
					b.run(cut(egress(b.production, out), size), cutOff(truncated, out, size))
				}
				for size := ethernetSize + n.ipSize(); size < headers; size++ {
					b.unreadable(ingress(b.replication, n.shorten(in, size)))
					b.unreadable(egress(b.production, n.shorten(out, size)))
				}
			})
		})
	}
}

// cut has the wrapper cut the frame, cutOff says what is left of it afterwards.
func cut(r run, size int) run {
	r.probe.Length = uint32(size)
	return r
}

func cutOff(e effect, frame []byte, size int) effect {
	e.frame = frame[:size]
	return e
}

// unreadable runs a program on a packet that is shorter than its headers say
// while its lengths agree: truncated or malformed, it passes and is counted.
func (b *bed) unreadable(r run) {
	b.t.Helper()
	_, counted := b.snapshot()
	verdict, frame, _ := b.exec(r)
	_, counts := b.snapshot()
	if verdict != pass || !slices.Equal(frame, r.frame) {
		b.t.Errorf("verdict %d, frame %x", verdict, frame)
	}
	delta := eventDelta(counted, counts)
	if !maps.Equal(delta, truncated.events) && !maps.Equal(delta, malformed.events) {
		b.t.Errorf("events %v, want truncated or malformed", eventSet.text(delta))
	}
}

// shorten cuts a frame and has its IP header agree.
func (n network) shorten(frame []byte, size int) []byte {
	length := size - ethernetSize
	if n.family == 6 {
		length -= ipv6Size
	}
	return n.setLength(slices.Clone(frame[:size]), uint16(length))
}

func TestParseIPv4Fragments(t *testing.T) {
	n := networks[0]
	fragment := func(offset uint16, flags layers.IPv4Flag) edit {
		return func(h *headers) { h.v4.FragOffset, h.v4.Flags = offset, flags }
	}
	for _, test := range []struct {
		name  string
		edit  edit
		later bool
	}{
		{"first", fragment(0, layers.IPv4MoreFragments), false},
		{"whole, not to be fragmented", fragment(0, layers.IPv4DontFragment), false},
		{"second", fragment(1, layers.IPv4MoreFragments), true},
		{"in the middle", fragment(0x1000, layers.IPv4MoreFragments), true},
		{"last", fragment(0x1fff, 0), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, normal)
			want := b.admits(n, udp{}, b.replication)
			if test.later {
				want = unread(bpf.DatapathEventEVENT_UNPARSED_FRAGMENT)
			}
			b.run(ingress(b.replication, n.in(b.replication, udp{payload: 8}, test.edit)), want)

			b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
			frame := n.out(b.production, udp{payload: 8}, test.edit)
			if !test.later {
				want = b.moves(n, udp{}, b.production, b.replication, frame)
			}
			b.run(egress(b.production, frame), want)
		})
	}
}

// TestParseNonLinear: drivers may leave headers in fragments of the packet.
func TestParseNonLinear(t *testing.T) {
	for _, m := range starters {
		t.Run(m.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				frame := n.in(b.replication, m.message)
				for linear := ethernetSize; linear < len(frame); linear++ {
					r := ingress(b.replication, frame)
					r.linear = uint32(linear)
					b.run(r, b.starts(n, m.message, b.replication))
					b.must(b.SetTables(newTables()))
				}
			})
		})
	}
}

// TestParseForeignICMP: ICMP belongs into IPv4 and ICMPv6 into IPv6.
func TestParseForeignICMP(t *testing.T) {
	for _, test := range []struct {
		n network
		m raw
	}{
		{networks[0], raw{layers.IPProtocolICMPv6, []byte{128, 0, 0, 0, 1, 2, 3, 4}}},
		{networks[1], raw{layers.IPProtocolICMPv4, []byte{8, 0, 0, 0, 1, 2, 3, 4}}},
	} {
		b := newBed(t, normal)
		b.run(ingress(b.replication, test.n.in(b.replication, test.m)), nothing)
		b.run(egress(b.production, test.n.out(b.production, test.m)), nothing)
	}
}

// TestParseMapped: an IPv4 address in an IPv6 header would be taken for the IPv4
// flow of that address.
func TestParseMapped(t *testing.T) {
	b, n := newBed(t, normal), networks[1]
	mapped := netip.AddrFrom16(networks[0].peer.As16())
	b.run(ingress(b.replication, n.in(b.replication, udp{}, source(mapped))), malformed)
	b.run(ingress(b.replication, n.in(b.replication, udp{}, destination(mapped))), malformed)
	b.run(egress(b.production, n.out(b.production, udp{}, source(mapped))), malformed)
	b.run(egress(b.production, n.out(b.production, udp{}, destination(mapped))), malformed)
}

// TestParseBigTCP: a GSO packet of more than 64 KiB has no length in its header.
func TestParseBigTCP(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, tcp{}, b.replication, 0)
		flow.State, flow.SndUna, flow.SndNxt = stateAnswered, 999, 1000
		b.put(halfOpen(flow))

		frame := n.setLength(n.out(b.replication, tcp{flags: "A", seq: 1000, payload: 100}), 0)
		b.run(egress(b.replication, frame), malformed)
		r := egress(b.replication, frame)
		r.gsoSegs, r.gsoSize = 2, 50
		flow.SndNxt = 1100
		b.run(r, effect{tables: halfOpen(flow)})
	})
}
