// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
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
	if n.family == 4 {
		return events{bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4: 1}
	}
	return events{bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6: 1}
}

// group and nowhere are addresses that nobody is answered at, or about.
func (n network) group() netip.Addr {
	return map[uint8]netip.Addr{4: netip.MustParseAddr("224.0.0.1"), 6: netip.MustParseAddr("ff02::1")}[n.family]
}

func (n network) nowhere() netip.Addr {
	return map[uint8]netip.Addr{4: netip.IPv4Unspecified(), 6: netip.IPv6Unspecified()}[n.family]
}

// answerBy is the frame that says so to the sender of a packet, from the peer and by
// the device itself.
func (b *bed) answerBy(n network, via nic, protocol layers.IPProtocol,
	rest func(gopacket.NetworkLayer) []gopacket.SerializableLayer) []byte {
	b.t.Helper()
	ethernet := &layers.Ethernet{SrcMAC: via.MAC, DstMAC: via.MAC, EthernetType: layers.EthernetTypeIPv4}
	v4 := &layers.IPv4{Version: 4, TOS: 0xc0, TTL: 255, Flags: layers.IPv4DontFragment,
		Protocol: protocol, SrcIP: n.peer.AsSlice(), DstIP: n.self.AsSlice()}
	v6 := &layers.IPv6{Version: 6, TrafficClass: 0xc0, HopLimit: 255,
		NextHeader: protocol, SrcIP: n.peer.AsSlice(), DstIP: n.self.AsSlice()}
	ip, forChecksum := gopacket.SerializableLayer(v4), gopacket.NetworkLayer(v4)
	if n.family == 6 {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		ip, forChecksum = v6, v6
	}
	frame, err := rig.Serialize(ethernet, append([]gopacket.SerializableLayer{ip}, rest(forChecksum)...)...)
	b.must(err)
	return frame
}

// reset is the answer to a SYN.
func (b *bed) reset(n network, via nic, syn tcp) []byte {
	b.t.Helper()
	return b.answerBy(n, via, layers.IPProtocolTCP, func(ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
		source, destination := syn.ends(inbound)
		header := &layers.TCP{
			SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination),
			Ack: syn.seq + 1, RST: true, ACK: true,
		}
		b.must(header.SetNetworkLayerForChecksum(ip))
		return []gopacket.SerializableLayer{header}
	})
}

// unreachable is the answer to what is not TCP.
func (b *bed) unreachable(n network, via nic, frame []byte) []byte {
	b.t.Helper()
	quote := gopacket.Payload(frame[ethernetSize : ethernetSize+n.ipSize()+8])
	return b.answerBy(n, via, icmp{}.protocol(n), func(ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
		if n.family == 4 {
			const networkUnknown = 6 // RFC 1122, 3.2.2.1
			return []gopacket.SerializableLayer{&layers.ICMPv4{
				TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, networkUnknown),
			}, quote}
		}
		header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(
			layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable)}
		b.must(header.SetNetworkLayerForChecksum(ip))
		return []gopacket.SerializableLayer{header, gopacket.Payload{0, 0, 0, 0}, quote}
	})
}

// syns are beginnings of connections.
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
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.run(fallback(b.production, n.out(b.production, syn)),
					effect{redirect: true, frame: b.reset(n, b.production, syn), events: n.dropped()})
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
			"udp":          udp{payload: 30},
			"empty udp":    udp{},
			"large udp":    udp{payload: 1400},
			"sctp":         sctp{payload: 20},
			"echo request": echo{},
			"esp":          raw{layers.IPProtocolESP, filler(8)},
		} {
			t.Run(name, func(t *testing.T) {
				b.t = t
				frame := n.out(b.production, m)
				b.run(fallback(b.production, frame),
					effect{redirect: true, frame: b.unreachable(n, b.production, frame), events: n.dropped()})
			})
		}
	})
}

// TestFallbackDrops: everything else ends without a word.
func TestFallbackDrops(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		out := func(m message, edits ...edit) []byte { return n.out(b.production, m, edits...) }
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
			"to a group":          out(udp{}, destination(n.group())),
			"syn to a group":      out(tcp{flags: "S"}, destination(n.group())),
			"from no address":     out(udp{}, source(n.nowhere())),
			"syn from no address": out(tcp{flags: "S"}, source(n.nowhere())),
			"another version":     anotherVersion(out(udp{})),
			"syn of another":      anotherVersion(out(tcp{flags: "S"})),
		}
		if n.family == 4 {
			frames["later fragment"] = out(udp{}, func(h *headers) { h.v4.FragOffset = 100 })
			frames["options"] = out(udp{}, func(h *headers) {
				h.v4.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
			})
		} else {
			options := []byte{byte(layers.IPProtocolUDP), 0, 1, 4, 0, 0, 0, 0}
			frames["extension header"] = out(raw{layers.IPProtocolIPv6Destination, append(options, filler(8)...)})
		}
		for name, frame := range frames {
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.run(fallback(b.production, frame), effect{drop: true, events: n.dropped()})
			})
		}
	})
}

// TestFallbackDropsOther: what is neither IPv4 nor IPv6 counts for IPv6, of which
// the kernel sends more than asked for.
func TestFallbackDropsOther(t *testing.T) {
	b := newBed(t, normal)
	frame := networks[0].out(b.production, udp{}, etherType(layers.EthernetTypeARP))
	b.run(fallback(b.production, frame), effect{drop: true, events: networks[1].dropped()})
}

// anotherVersion makes the IP header one of neither family.
func anotherVersion(frame []byte) []byte {
	frame[ethernetSize] = 0x75
	return frame
}

// hold says that a gateway of an interface is held, until so many seconds from now.
func (b *bed) hold(n network, via nic, mac net.HardwareAddr, seconds int) {
	b.t.Helper()
	key := bpf.DatapathGatewayMac{Ifindex: via.Index, Mac: rig.MAC(mac), Family: n.family}
	now, err := b.Now()
	b.must(err)
	b.must(b.HeldGateways.Put(key, now+uint32(seconds)*b.Seconds(1)))
}

// TestHeldRefuses: a SYN to a gateway that is held is answered, nothing else.
func TestHeldRefuses(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.hold(n, b.production, b.production.router, 60)
		for name, syn := range syns {
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.run(held(b.production, n.out(b.production, syn)),
					effect{redirect: true, frame: b.reset(n, b.production, syn)})
			})
		}
		for name, m := range map[string]message{
			"syn-ack": tcp{flags: "SA"}, "segment": tcp{flags: "A"}, "udp": udp{payload: 30}, "echo request": echo{},
		} {
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.run(held(b.production, n.out(b.production, m)), effect{})
			})
		}
	})
}

// TestHeldPasses: nobody is refused whose gateway is not held, or not any more.
func TestHeldPasses(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		syn := tcp{flags: "S"}
		other := networks[0]
		if n.family == 4 {
			other = networks[1]
		}
		b.hold(n, b.production, b.production.router, -1)
		b.hold(other, b.production, b.production.router, 60)
		b.hold(n, b.replication, b.production.router, 60)
		b.hold(n, b.production, b.replication.router, 60)
		b.run(held(b.production, n.out(b.production, syn)), effect{})
	})
}
