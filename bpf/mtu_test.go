// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	narrow = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NARROW)

	narrowMTU = 1280 // of the flow's interface in these tests
	quoteSize = 128  // bytes of the packet that an ICMP error quotes
)

// limit gives the flow's interface this MTU.
func (b *bed) limit(mtu uint32) {
	b.t.Helper()
	b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Mtu = mtu; r.Flags |= narrow })
}

// sizeError is the frame that a packet is turned into: what a router says that
// cannot forward it, from the flow's interface to itself.
func (b *bed) sizeError(n network, frame []byte, via nic, from []byte, mtu uint32) []byte {
	b.t.Helper()
	quote := gopacket.Payload(frame[ethernetSize : ethernetSize+quoteSize])
	ethernet := &layers.Ethernet{SrcMAC: via.MAC, DstMAC: via.MAC, EthernetType: layers.EthernetTypeIPv4}
	var parts []gopacket.SerializableLayer
	if n.family == 4 {
		parts = append(parts,
			&layers.IPv4{Version: 4, TOS: 0xc0, TTL: 64, Flags: layers.IPv4DontFragment,
				Protocol: layers.IPProtocolICMPv4, SrcIP: from, DstIP: n.self.AsSlice()},
			&layers.ICMPv4{
				TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded),
				Seq:      uint16(mtu),
			}, quote)
	} else {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, TrafficClass: 0xc0, HopLimit: 64,
			NextHeader: layers.IPProtocolICMPv6, SrcIP: from, DstIP: n.self.AsSlice()}
		header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0)}
		b.must(header.SetNetworkLayerForChecksum(ip))
		parts = append(parts, ip, header, gopacket.Payload(binary.BigEndian.AppendUint32(nil, mtu)), quote)
	}
	built, err := rig.Serialize(ethernet, parts...)
	b.must(err)
	return built
}

// tells is the effect of a reply that is too large for its flow's interface and
// cannot be cut.
func (b *bed) tells(n network, m message, frame []byte, from []byte) effect {
	b.t.Helper()
	return b.tellsBetween(n, m, b.production, b.replication, frame, frame, from)
}

// tellsBetween is that for the packet that leaves by one interface and whose flow is
// another's. `counted` is what the program sees of the frame.
func (b *bed) tellsBetween(n network, m message, via, to nic, counted, frame []byte, from []byte) effect {
	b.t.Helper()
	e := b.stays(n, m, via, to, counted, bpf.DatapathOutcomeOUTCOME_MTU)
	e.redirect, e.frame = true, b.sizeError(n, frame, to, from, narrowMTU)
	marked := e.tables
	e.tables = func(t tables) {
		marked(t)
		for _, flows := range []map[bpf.DatapathTuple]bpf.DatapathFlow{t.Established, t.Connectionless} {
			if f, ok := flows[n.tuple(m)]; ok {
				f.Told = toldNow
				flows[n.tuple(m)] = f
			}
		}
	}
	return e
}

// eachVariant runs a test with what the kernel has and with what 5.10 has.
func eachVariant(t *testing.T, f func(t *testing.T, b *bed, n network)) {
	t.Helper()
	for _, v := range []struct {
		name string
		variant
	}{{"this kernel", normal}, {"old kernel", oldKernel}} {
		t.Run(v.name, func(t *testing.T) {
			for _, n := range networks {
				t.Run(n.name, func(t *testing.T) { f(t, newBed(t, v.variant), n) })
			}
		})
	}
}

// sized are repliers with an IP packet of this size.
func sized(n network, size int) map[string]message {
	rest := size - n.ipSize()
	echoHeader := 16 // with the usual payload
	return map[string]message{
		"tcp":  tcp{flags: "PA", seq: 3, payload: rest - 20},
		"udp":  udp{payload: rest - 8},
		"sctp": sctp{payload: rest - 12},
		"echo": echo{reply: true, payload: rest - echoHeader},
	}
}

// TestSizeTold: who sends what is too large learns how large it may be.
func TestSizeTold(t *testing.T) {
	eachVariant(t, func(t *testing.T, b *bed, n network) {
		b.limit(narrowMTU)
		for _, test := range []struct {
			size int // of the IP packet
			fits bool
		}{{narrowMTU - 1, true}, {narrowMTU, true}, {narrowMTU + 1, false}, {1500, false}, {3000, false}} {
			for name, m := range sized(n, test.size) {
				t.Run(fmt.Sprintf("%s of %d", name, test.size), func(t *testing.T) {
					b.t = t
					b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
					frame := n.out(b.production, m)
					want := b.moves(n, m, b.production, b.replication, frame)
					if !test.fits {
						want = b.tells(n, m, frame, n.stranger.AsSlice())
					}
					b.run(egress(b.production, frame), want)
				})
			}
		}
	})
}

// TestSizeToldFragmentable: the kernel takes the message for packets too that may
// be fragmented, and fragments the next ones itself.
func TestSizeToldFragmentable(t *testing.T) {
	b, n := newBed(t, normal), networks[0]
	b.limit(narrowMTU)
	m := udp{payload: 1400}
	for _, flags := range []layers.IPv4Flag{0, layers.IPv4DontFragment} {
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		frame := n.out(b.production, m, func(h *headers) { h.v4.Flags = flags })
		b.run(egress(b.production, frame), b.tells(n, m, frame, n.stranger.AsSlice()))
	}
}

// TestSizeToldBy: the message comes from the flow's gateway where there is one of
// this family on this interface, else from the peer.
func TestSizeToldBy(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.limit(narrowMTU)
		other := networks[0]
		if n.family == 4 {
			other = networks[1]
		}
		m := udp{payload: 1400}
		for _, test := range []struct {
			name string
			set  func(*bpf.DatapathFlow, *bpf.DatapathGateway)
			from []byte
		}{
			{"gateway", func(*bpf.DatapathFlow, *bpf.DatapathGateway) {}, n.stranger.AsSlice()},
			{"gateway without a MAC", func(_ *bpf.DatapathFlow, g *bpf.DatapathGateway) { g.Usable = 0 }, n.stranger.AsSlice()},
			{"none", func(f *bpf.DatapathFlow, _ *bpf.DatapathGateway) { f.Gateway = 0 }, n.peer.AsSlice()},
			{"none there", func(f *bpf.DatapathFlow, _ *bpf.DatapathGateway) { f.Gateway = 0xffff }, n.peer.AsSlice()},
			{"of another interface", func(_ *bpf.DatapathFlow, g *bpf.DatapathGateway) { g.Ifindex++ }, n.peer.AsSlice()},
			{"of the other family", func(_ *bpf.DatapathFlow, g *bpf.DatapathGateway) { g.Address = other.stranger.As16() }, n.peer.AsSlice()},
		} {
			t.Run(test.name, func(t *testing.T) {
				b.t = t
				flow := b.flow(n, m, b.replication, 0)
				gateway := bpf.DatapathGateway{Address: n.stranger.As16(), Ifindex: b.replication.Index,
					Mac: rig.MAC(b.replication.router), Usable: 1}
				test.set(&flow, &gateway)
				b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), gateway))
				b.put(connectionlessFlow(flow))
				frame := n.out(b.production, m)
				b.run(egress(b.production, frame), b.tells(n, m, frame, test.from))
			})
		}
	})
}

// TestSizeToldAtMostOnceASecond: what is sent meanwhile goes as routed.
func TestSizeToldAtMostOnceASecond(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.limit(narrowMTU)
		m := udp{payload: 1400}
		frame := n.out(b.production, m)
		for _, test := range []struct {
			ticks uint32 // since the last time
			told  bool
		}{{0, false}, {b.Seconds(1) - 1, false}, {b.Seconds(1), true}, {b.Seconds(60), true}} {
			b.inOneTick(egress(b.production, frame), func() effect {
				flow := b.flow(n, m, b.replication, 0)
				flow.Told = uint16(b.ago(0) - test.ticks)
				b.put(connectionlessFlow(flow))
				if test.told {
					return b.tells(n, m, frame, n.stranger.AsSlice())
				}
				return b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_MTU)
			})
		}
		// One flow's silence is not another's.
		other := udp{ports: ports{peer: 999}, payload: 1400}
		told := b.flow(n, m, b.replication, 0)
		told.Told = uint16(b.ago(0))
		b.put(connectionlessFlow(told), connectionlessFlow(b.flow(n, other, b.replication, 0)))
		frame = n.out(b.production, other)
		b.run(egress(b.production, frame), b.tells(n, other, frame, n.stranger.AsSlice()))
	})
}

// TestSizeNotTold: where no message would help, or none can be made, the packet
// goes as routed.
func TestSizeNotTold(t *testing.T) {
	t.Run("mtu that the kernel does not accept", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			smallest := map[uint8]uint32{4: 552, 6: 1280}[n.family]
			b.limit(smallest - 1)
			m := udp{payload: int(smallest) - n.ipSize() - 8}
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
			frame := n.out(b.production, m)
			b.run(egress(b.production, frame), b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_MTU))
		})
	})
	t.Run("headers", func(t *testing.T) {
		b, n := newBed(t, normal), networks[1]
		b.limit(narrowMTU)
		m := udp{payload: 1400}
		for _, test := range []struct {
			words byte // of 8 bytes, beside the first
			told  bool
		}{{0, true}, {7, true}, {8, false}, {9, false}} { // 40 + 64 + 20 = 124
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
			options := extension{layers.IPProtocolIPv6Destination, append([]byte{0, test.words, 1, 4, 0, 0, 0, 0}, make([]byte, 8*int(test.words))...)}
			frame := extend(n.out(b.production, m), options)
			want := b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_MTU)
			if test.told {
				want = b.tells(n, m, frame, n.stranger.AsSlice())
			}
			b.run(egress(b.production, frame), want)
		}
	})
	t.Run("later fragment", func(t *testing.T) { // RFC 1122, 3.2.2; RFC 4443, 2.4
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			m := udp{payload: 1400}
			frame := n.out(b.production, m)
			if n.family == 6 {
				frame = extend(frame, first)
			} else {
				frame = n.out(b.production, m, func(h *headers) { h.v4.Flags = layers.IPv4MoreFragments })
			}
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
			b.run(egress(b.production, frame), b.tells(n, m, frame, n.stranger.AsSlice()))

			later := n.out(b.production, m, func(h *headers) {
				if h.v4 != nil {
					h.v4.FragOffset = 100
				}
			})
			if n.family == 6 {
				later = extend(later, last)
			}
			var set bpf.DatapathFlowSet
			b.must(b.Connectionless.Lookup(uint32(0), &set))
			set.Flow[0].Told -= uint16(b.Seconds(2)) // not lately
			b.must(b.Connectionless.Put(uint32(0), set))
			b.run(egress(b.production, later), effect{pairs: pairs{
				pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC): {Packets: 1, Bytes: uint64(len(later))},
				pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_MTU):        {Packets: 1, Bytes: uint64(len(later))},
			}})
		})
	})
	t.Run("observe", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			b.switchMode(bpf.DatapathModeMODE_OBSERVE)
			m := udp{payload: 1400}
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
			frame := n.out(b.production, m)
			b.run(egress(b.production, frame), b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_OBSERVE))
		})
	})
}

// TestSizeToldWithOptions: the longest IPv4 header fits the quote.
func TestSizeToldWithOptions(t *testing.T) {
	b, n := newBed(t, normal), networks[0]
	b.limit(narrowMTU)
	m := udp{payload: 1400}
	for _, count := range []int{4, 40} {
		b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
		frame := n.out(b.production, m, ipOptions(count))
		b.run(egress(b.production, frame), b.tells(n, m, frame, n.stranger.AsSlice()))
	}
}

// ipOptions adds so many no-operations to an IPv4 header.
func ipOptions(count int) edit {
	return func(h *headers) {
		if h.v4 == nil {
			return
		}
		for range count {
			h.v4.Options = append(h.v4.Options, layers.IPv4Option{OptionType: 1})
		}
	}
}

// bare makes an interface one without Ethernet header, of the narrow MTU.
func (b *bed) bare(i nic) {
	b.t.Helper()
	b.manage(i, func(r *bpf.DatapathInterface) {
		r.Flags |= narrow | uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
		r.Mtu, r.Mac = narrowMTU, [6]uint8{}
	})
}

// TestSizeToldL3: the kernel takes the header off where the device has none, and wants
// one where it has. The test run takes the first bytes of what has none for an Ethernet
// header, so that room is made behind them, and they are missing from the quote; what goes
// between two devices without it cannot show.
func TestSizeToldL3(t *testing.T) {
	t.Run("to", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.bare(b.replication)
			m := udp{payload: 1400}
			b.put(connectionlessFlow(withoutMAC(b.flow(n, m, b.replication, 0))))
			frame := n.out(b.production, m)
			want := b.tells(n, m, frame, n.peer.AsSlice())
			clear(want.frame[:2*6])
			b.run(egress(b.production, frame), want)
		})
	})
	t.Run("from", func(t *testing.T) {
		eachL3(t, func(t *testing.T, b *bed, n network) {
			b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU })
			m := udp{payload: 1400}
			b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
			frame := n.out(b.replication, m)
			r := egressL3(b.replication, frame)
			gateway := map[uint8]network{4: networks[0], 6: networks[1]}[n.family].stranger
			want := b.tellsBetween(n, m, b.replication, b.backup, r.frame, frame, gateway.AsSlice())
			quote := len(want.frame) - quoteSize
			clear(want.frame[quote : quote+ethernetSize])
			b.run(r, want)
		})
	})
}
