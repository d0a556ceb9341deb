// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

func fallback(via nic, frame []byte) run {
	return run{program: bpf.DatapathProgReplypathFallback, via: via, frame: frame}
}

func held(via nic, frame []byte) run {
	return run{program: bpf.DatapathProgReplypathHeld, via: via, frame: frame}
}

// dropped counts what ended at the device of the fallback route.
func (n network) dropped() events {
	return once(either(n.family == 4, bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4, bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6))
}

// answerBy is the frame that says so to the sender of a packet, by the device itself.
func (n network) answerBy(via nic, protocol layers.IPProtocol, rest ...gopacket.SerializableLayer) []byte {
	h := rig.NewHeaders(via.MAC, via.MAC, n.peer, n.self, protocol)
	if n.family == 4 {
		h.V4.TTL, h.V4.Id = 255, 0
	} else {
		h.V6.HopLimit = 255
	}
	return h.Frame(rest...)
}

func (n network) reset(via nic, syn tcp) []byte {
	source, destination := syn.ends(inbound)
	return n.answerBy(via, layers.IPProtocolTCP, &layers.TCP{
		SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination), Ack: syn.seq + 1, RST: true, ACK: true,
	})
}

func (n network) unreachable(via nic, frame []byte) []byte {
	quote := gopacket.Payload(frame[ethernetSize : ethernetSize+n.ipSize()+8])
	if n.family == 4 {
		const networkUnknown = 6 // RFC 1122, 3.2.2.1
		return n.answerBy(via, layers.IPProtocolICMPv4, &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, networkUnknown),
		}, quote)
	}
	return n.answerBy(via, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(
		layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable)}, gopacket.Payload{0, 0, 0, 0}, quote)
}

var syns = map[string]tcp{
	"plain": {flags: "S", seq: 7},
	"options": {flags: "S", seq: 0xffffffff, options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}}},
	"fast open": {flags: "S", seq: 7, payload: 100},
}

// TestFallbackRefuses: the beginning of a connection is answered by a RST.
func TestFallbackRefuses(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		refused := 0
		for name, syn := range syns {
			b.sub(name, func(t *testing.T) {
				b.run(fallback(b.production, n.out(b.production, syn)),
					effect{redirect: true, frame: n.reset(b.production, syn), events: n.dropped()})
				if !t.Failed() {
					refused++
				}
			})
		}
		t.Logf("%d beginnings of connections, %d answered by a RST", len(syns), refused)
	})
}

// TestFallbackTells: what else the host starts is answered by an ICMP error.
func TestFallbackTells(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for name, m := range map[string]message{
			"udp": udp{payload: 30}, "empty udp": udp{}, "large udp": udp{payload: 1400}, "sctp": sctp{payload: 20},
			"echo request": echo{}, "timestamp request": echo{time: n.family == 4}, "esp": raw{layers.IPProtocolESP, filler(8)},
		} {
			b.sub(name, func(t *testing.T) {
				frame := n.out(b.production, m)
				want := effect{redirect: true, frame: n.unreachable(b.production, frame), events: n.dropped()}
				b.run(fallback(b.production, frame), want)
			})
		}
	})
}

// anotherVersion makes the IP header one of neither family.
func anotherVersion(frame []byte) []byte {
	frame[ethernetSize] = 0x75
	return frame
}

var nobodies = map[string]net.HardwareAddr{"silent gateway": bpf.SilentGateway, "any peer": bpf.AnyPeer}

// TestNobodyIsNoStranger: bridges and hosts take the MACs for what they are, locally administered ones of single
// stations, and none is taken for a neighbouring number.
func TestNobodyIsNoStranger(t *testing.T) {
	for name, mac := range nobodies {
		if mac[0]&3 != 2 || !bpf.IsNobody(mac) {
			t.Errorf("%s: %s", name, mac)
		}
		for i := range mac {
			other := bytes.Clone(mac)
			if other[i] ^= 0x40; bpf.IsNobody(other) {
				t.Errorf("%s is nobody's too", net.HardwareAddr(other))
			}
		}
	}
}

// TestNobodyMoved: what belongs to a flow of this interface gets its MAC, whatever the next hop; what belongs to one of
// another interface is moved as ever.
func TestNobodyMoved(t *testing.T) {
	for name, mac := range nobodies {
		under(t, name, eachReply, func(t *testing.T, b *bed, n network, m message) {
			frame := n.out(b.replication, m, destinationMAC(mac))
			b.run(egress(b.replication, frame), b.readdresses(n, m, b.replication, frame))

			b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
			frame = n.out(b.production, m, destinationMAC(mac))
			b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
		})
	}
}

// TestNobodyAsksEverybody: the kernel's question whether the gateway has the MAC that nobody has goes to everybody,
// by IPv4 to all stations, by IPv6 to the group of the address.
func TestNobodyAsksEverybody(t *testing.T) {
	router := netip.MustParseAddr("fd00:3::12:3456")
	solicitation := icmp{kind: layers.ICMPv6TypeNeighborSolicitation}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		asked := func(mac net.HardwareAddr, edits ...edit) []byte {
			edits = append(edits, destinationMAC(mac))
			if n.family == 4 {
				return n.out(b.production, udp{}, append(edits, etherType(layers.EthernetTypeARP))...)
			}
			return n.out(b.production, solicitation, edits...)
		}
		want := asked(layers.EthernetBroadcast)
		if n.family == 6 {
			group := netip.MustParseAddr("ff02::1:ff12:3456")
			want = asked(net.HardwareAddr{0x33, 0x33, 0xff, 0x12, 0x34, 0x56}, destination(group))
		}
		toRouter := func(h *headers) {
			if n.family == 6 {
				destination(router)(h)
			}
		}
		got := b.perform(egress(b.production, asked(bpf.SilentGateway, toRouter)))
		if got.verdict != pass || !bytes.Equal(got.frame, want) {
			t.Errorf("verdict %d\n% x\nwanted to pass\n% x", got.verdict, got.frame, want)
		}
		t.Logf("asked as % x", got.frame[:6])
	})
}

var fallbackFamily = map[string]story{
	"everything else ends without a word": func(t *testing.T, b *bed, n network) {
		out := func(m message, edits ...edit) []byte { return n.out(b.production, m, edits...) }
		group, nowhere := netip.MustParseAddr(either(n.family == 4, "224.0.0.1", "ff02::1")), netip.IPv6Unspecified()
		if n.family == 4 {
			nowhere = netip.IPv4Unspecified()
		}
		frames := map[string][]byte{
			"syn-ack":             out(tcp{flags: "SA"}),
			"segment":             out(tcp{flags: "PA", payload: 10}),
			"fin":                 out(tcp{flags: "FA"}),
			"syn and fin":         out(tcp{flags: "SF"}),
			"reset":               out(tcp{flags: "R"}),
			"echo reply":          out(echo{reply: true}),
			"icmp error":          out(icmp{kind: map[uint8]uint8{4: 3, 6: 1}[n.family]}),
			"too short to quote":  out(raw{layers.IPProtocolESP, filler(7)}),
			"too short for tcp":   out(raw{layers.IPProtocolTCP, filler(19)}),
			"to a group":          out(udp{}, destination(group)),
			"syn to a group":      out(tcp{flags: "S"}, destination(group)),
			"from no address":     out(udp{}, source(nowhere)),
			"syn from no address": out(tcp{flags: "S"}, source(nowhere)),
			"another version":     anotherVersion(out(udp{})),
			"syn of another":      anotherVersion(out(tcp{flags: "S"})),
		}
		if n.family == 4 {
			frames["later fragment"] = out(udp{}, func(h *headers) { h.V4.FragOffset = 100 })
			frames["options"] = out(udp{}, func(h *headers) {
				h.V4.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
			})
		} else {
			options := []byte{byte(layers.IPProtocolUDP), 0, 1, 4, 0, 0, 0, 0}
			frames["extension header"] = out(raw{layers.IPProtocolIPv6Destination, append(options, filler(8)...)})
		}
		for name, frame := range frames {
			b.sub(name, func(t *testing.T) {
				b.run(fallback(b.production, frame), effect{drop: true, events: n.dropped()})
			})
		}
	},
	// By IPv4 what goes to any peer is sent to it as to a neighbour.
	"what the host begins for nobody is refused, the rest ends": func(t *testing.T, b *bed, n network) {
		for name, mac := range nobodies {
			b.sub(name, func(t *testing.T) {
				question := n.out(b.production, echo{}, destinationMAC(mac))
				refused := effect{redirect: true, frame: n.unreachable(b.production, question), events: n.dropped()}
				segment := n.out(b.production, tcp{flags: "PA", payload: 10}, destinationMAC(mac))
				dropped := effect{drop: true, events: n.dropped()}
				if n.family == 4 && name == "any peer" {
					refused, dropped = effect{redirect: true}, effect{redirect: true}
				}
				b.run(egress(b.production, question), refused)
				b.run(egress(b.production, segment), dropped)
			})
		}
	},
	"a trace says of what ends for nobody that it does not leave": func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		for name, mac := range nobodies {
			b.sub(name, func(*testing.T) {
				frame := n.out(b.production, tcp{flags: "PA", payload: 10}, destinationMAC(mac))
				b.exec(egress(b.production, frame))
				want := n.outgoing(tcp{flags: "PA", payload: 10}, b.production, b.production, frame)
				want.KernelMac, want.Mac = rig.MAC(mac), rig.MAC(mac)
				if n.family == 6 || name != "any peer" {
					want.OutIfindex, want.Length, want.Packets = 0, 0, 0
				}
				tracer.want(want)
			})
		}
	},
	"where the kernel has none, frames for nobody end without an answer": func(t *testing.T, b *bed, n network) {
		b.must(b.Tails.Delete(bpf.DatapathTailTAIL_NOBODY))
		defer func() { b.must(b.Tails.Put(bpf.DatapathTailTAIL_NOBODY, b.ReplypathFallback)) }()
		b.leaves(n, echo{}, effect{drop: true}, destinationMAC(bpf.SilentGateway))
	},
}

func TestFallbackFamily(t *testing.T) { tell(t, eachFamily, fallbackFamily) }

// TestHeldRefuses: a SYN to a gateway that is held is answered, nothing else. Nobody is refused whose gateway is not
// held, or not any more.
func TestHeldRefuses(t *testing.T) {
	hold := func(b *bed, n network, via nic, mac net.HardwareAddr, seconds int) {
		b.must(b.HoldGateway(via.Index, rig.MAC(mac), n.family, b.ago(0)+uint32(seconds)*b.Seconds(1)))
	}
	for i, n := range networks {
		b, other := newBed(t, normal), networks[1-i]
		hold(b, n, b.production, b.production.router, -1)
		hold(b, other, b.production, b.production.router, 60)
		hold(b, n, b.replication, b.production.router, 60)
		hold(b, n, b.production, b.replication.router, 60)
		b.run(held(b.production, n.out(b.production, tcp{flags: "S"})), nothing)
		hold(b, n, b.production, b.production.router, 60)
		for _, syn := range syns {
			want := effect{redirect: true, frame: n.reset(b.production, syn)}
			b.run(held(b.production, n.out(b.production, syn)), want)
		}
		for _, m := range []message{tcp{flags: "SA"}, tcp{flags: "A"}, udp{payload: 30}, echo{}} {
			b.run(held(b.production, n.out(b.production, m)), nothing)
		}
	}
}
