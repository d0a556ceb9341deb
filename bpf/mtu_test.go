package bpf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
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
// cannot forward it, from ourselves to ourselves.
func (b *bed) sizeError(n network, frame []byte, from []byte, mtu uint32) []byte {
	b.t.Helper()
	quote := gopacket.Payload(frame[ethernetSize : ethernetSize+quoteSize])
	ethernet := &layers.Ethernet{SrcMAC: b.replication.MAC, DstMAC: b.replication.MAC, EthernetType: layers.EthernetTypeIPv4}
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
	e := b.stays(n, m, b.production, b.replication, frame, bpf.DatapathOutcomeOUTCOME_MTU)
	e.redirect, e.frame = true, b.sizeError(n, frame, from, narrowMTU)
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

// TestReplyGSO: the size of the segments counts, not that of the packet. The test
// run makes GSO packets without a type, which the kernel refuses to change: they
// are left alone as any helper's failure leaves them. TestSizeOfLiveConnections
// has them cut.
func TestReplyGSO(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, oldKernel)
			for _, m := range []message{tcp{flags: "A", payload: 2900}, udp{payload: 2900}, sctp{payload: 2900}} {
				headers := uint32(n.ipSize()) + map[layers.IPProtocol]uint32{
					layers.IPProtocolTCP: 20, layers.IPProtocolUDP: 8, layers.IPProtocolSCTP: 12}[m.protocol(n)]
				_, isSCTP := m.(sctp) // whose segments have no one size
				for _, test := range []struct {
					size, segments uint32
					fits           bool
				}{
					{1380, 3, true},
					{1500 - headers, 3, true},
					{1500 - headers + 1, 3, false},
					{1430, 0, true}, // a virtual machine's packet does not say how many
					{1000, 0, true},
					{967, 0, true},
					{966, 0, true},
					{725, 0, true},
					{100, 0, true},
					{1495, 0, false},
				} {
					if isSCTP && test.segments == 0 {
						continue
					}
					b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
					r := egress(b.production, n.out(b.production, m))
					r.gsoSize, r.gsoSegs = test.size, test.segments
					segments := (2900 + test.size - 1) / test.size
					r.wireLen = uint32(len(r.frame)) + (segments-1)*(ethernetSize+headers)
					want := b.moves(n, m, b.production, b.replication, r.frame)
					counted := count{Packets: uint64(segments), Bytes: uint64(r.wireLen)}
					if test.segments != 0 {
						counted.Packets = uint64(test.segments)
					}
					if !test.fits || isSCTP {
						want.redirect, want.frame = false, nil
						want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_MTU)] = counted
					}
					counted.Flows = 1
					want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] = counted
					b.run(r, want)
				}
			}
		})
	}
}

// TestReplyGSOWithOptions: the headers of a segment are as long as the packet's.
func TestReplyGSOWithOptions(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, oldKernel)
			m := tcp{flags: "A", payload: 2900, options: []layers.TCPOption{
				{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)},
				{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop}}}
			frame := n.out(b.production, m, ipOptions(8))
			headers := uint32(n.ipSize()) + 8 + 32
			if n.family == 6 {
				frame = extend(n.out(b.production, m), destinations)
			}
			for _, test := range []struct {
				size uint32
				fits bool
			}{{1500 - headers, true}, {1500 - headers + 1, false}} {
				b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
				r := egress(b.production, slices.Clone(frame))
				r.gsoSize, r.gsoSegs = test.size, 3
				want := b.moves(n, m, b.production, b.replication, r.frame)
				counted := count{Packets: 3, Bytes: uint64(len(frame))}
				if !test.fits {
					want.redirect, want.frame = false, nil
					want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_MTU)] = counted
				}
				counted.Flows = 1
				want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] = counted
				b.run(r, want)
			}
		})
	}
}

// TestReplyGSOChecked: bpf_check_mtu knows the segments.
func TestReplyGSOChecked(t *testing.T) {
	if errors.Is(features.HaveProgramHelper(ebpf.SchedCLS, asm.FnCheckMtu), ebpf.ErrNotSupported) {
		t.Skip("the kernel has no bpf_check_mtu (Linux 5.12)")
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, test := range []struct {
			payload int
			fits    bool
		}{{1000, true}, {2900, false}} { // what the test run gives the helper has no transport header
			m := tcp{flags: "A", payload: test.payload}
			b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
			r := egress(b.production, n.out(b.production, m))
			r.gsoSize, r.gsoSegs = 500, 2
			want := b.moves(n, m, b.production, b.replication, r.frame)
			asymmetric := pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)
			want.pairs[asymmetric] = count{Packets: 2, Bytes: uint64(len(r.frame)), Flows: 1}
			if !test.fits {
				want.redirect, want.frame = false, nil
				want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_MTU)] =
					count{Packets: 2, Bytes: uint64(len(r.frame))}
			}
			b.run(r, want)
		}
	})
}

// Options of TCP headers.
func option(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
	o := layers.TCPOption{OptionType: kind, OptionData: data, OptionLength: uint8(2 + len(data))}
	if kind == layers.TCPOptionKindNop || kind == layers.TCPOptionKindEndList {
		o.OptionLength = 1
	}
	return o
}

func mss(size uint16) layers.TCPOption {
	return option(layers.TCPOptionKindMSS, byte(size>>8), byte(size))
}

var (
	nop       = option(layers.TCPOptionKindNop)
	end       = option(layers.TCPOptionKindEndList)
	sack      = option(layers.TCPOptionKindSACKPermitted)
	timestamp = option(layers.TCPOptionKindTimestamps, 1, 2, 3, 4, 5, 6, 7, 8)
	scale     = option(layers.TCPOptionKindWindowScale, 7)
	signature = option(19, make([]byte, 16)...) // RFC 2385: does not cover the options
	signed    = option(29, make([]byte, 14)...) // RFC 5925: does
)

// largestMSS is what fits the narrow interface.
func largestMSS(n network) uint16 { return uint16(narrowMTU - n.ipSize() - 20) }

// announcements are options of a SYN, and whether the size in them stays whatever
// it is.
var announcements = []struct {
	name    string
	options func(size uint16) []layers.TCPOption
	stays   bool
}{
	{"only", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s)} }, false},
	{"linux", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), sack, timestamp, nop, scale} }, false},
	{"windows", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), nop, scale, nop, nop, sack} }, false},
	{"last", func(s uint16) []layers.TCPOption { return []layers.TCPOption{sack, timestamp, scale, nop, mss(s)} }, false},
	{"astride two words", func(s uint16) []layers.TCPOption { return []layers.TCPOption{nop, mss(s), nop, nop, nop} }, false},
	{"astride two words, last", func(s uint16) []layers.TCPOption { return []layers.TCPOption{nop, nop, nop, mss(s), end} }, false},
	{"after 36 no-operations", func(s uint16) []layers.TCPOption {
		return append(slices.Repeat([]layers.TCPOption{nop}, 36), mss(s))
	}, false},
	{"before 36 no-operations", func(s uint16) []layers.TCPOption {
		return append([]layers.TCPOption{mss(s)}, slices.Repeat([]layers.TCPOption{nop}, 36)...)
	}, false},
	{"signed without options", func(s uint16) []layers.TCPOption { return []layers.TCPOption{nop, nop, signature, mss(s)} }, false},
	{"before the end", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), end, signed} }, false},
	{"none", func(uint16) []layers.TCPOption { return nil }, true},
	{"others", func(uint16) []layers.TCPOption { return []layers.TCPOption{sack, timestamp, scale, nop} }, true},
	{"after the end", func(s uint16) []layers.TCPOption { return []layers.TCPOption{sack, end, mss(s)} }, true},
	{"signed", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), signed} }, true},
	{"twice", func(s uint16) []layers.TCPOption { return []layers.TCPOption{mss(s), mss(s)} }, true},
	{"too short", func(uint16) []layers.TCPOption {
		return []layers.TCPOption{option(layers.TCPOptionKindMSS, 0x20), nop}
	}, true},
	{"too long", func(s uint16) []layers.TCPOption {
		return []layers.TCPOption{option(layers.TCPOptionKindMSS, byte(s>>8), byte(s), 0, 0), nop, nop}
	}, true},
}

// TestSizeAnnounced: a SYN by a narrow interface, and the SYN-ACK that is moved to
// it, announce no more than it takes, with whatever options, extension headers and
// IPv4 options; the checksum is right afterwards.
func TestSizeAnnounced(t *testing.T) {
	for _, test := range announcements {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.limit(narrowMTU)
				for _, size := range []uint16{0, 536, largestMSS(n) - 1, largestMSS(n), largestMSS(n) + 1, 1460, 8960, 0xffff} {
					becomes := min(size, largestMSS(n))
					if test.stays {
						becomes = size
					}
					for _, edits := range []edit{ipOptions(0), ipOptions(4), ipOptions(40)} {
						in := func(size uint16) []byte {
							return n.in(b.replication, tcp{flags: "S", seq: peerISN, options: test.options(size)}, edits)
						}
						b.announces(n, in(size), in(becomes))
					}
					if n.family == 6 {
						in := func(size uint16) []byte {
							return extend(n.in(b.replication, tcp{flags: "S", seq: peerISN, options: test.options(size)}), hopByHop, longOptions)
						}
						b.announces(n, in(size), in(becomes))
					}
					out := func(size uint16) []byte {
						return n.out(b.production, tcp{flags: "SA", seq: ourISN, ack: peerISN + 1, options: test.options(size)})
					}
					b.answersWith(n, out(size), out(becomes))
				}
			})
		})
	}
}

// announces runs a SYN that starts a flow, and has to become another.
func (b *bed) announces(n network, frame, becomes []byte) {
	b.t.Helper()
	b.put()
	want := b.starts(n, syn, b.replication)
	want.frame = becomes
	b.run(ingress(b.replication, frame), want)
}

// answersWith runs a SYN-ACK that is moved, and has to become another.
func (b *bed) answersWith(n network, frame, becomes []byte) {
	b.t.Helper()
	b.put(halfOpen(b.answered(n, b.replication, 0)))
	b.run(egress(b.production, frame), b.moves(n, synAck, b.production, b.replication, becomes))
}

// TestSizeNotAnnounced: what need not be lowered, or must not be, stays.
func TestSizeNotAnnounced(t *testing.T) {
	large := []layers.TCPOption{mss(1460)}
	syn, synAck := syn, synAck
	syn.options, synAck.options = large, large
	both := func(t *testing.T, set func(*bpf.DatapathInterface), prepare func(*bed)) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) {
				r.Mtu, r.Flags = narrowMTU, r.Flags|narrow
				set(r)
			})
			prepare(b)
			frame := n.in(b.replication, syn)
			b.announces(n, frame, frame)
			b.put(halfOpen(b.answered(n, b.replication, 0)))
			frame = n.out(b.production, synAck)
			_, left, _ := b.exec(egress(b.production, frame))
			if !slices.Equal(left[2*6:], frame[2*6:]) {
				t.Errorf("the SYN-ACK was changed:\n%x\n%x", frame, left)
			}
		})
	}
	t.Run("no other interface takes more", func(t *testing.T) {
		both(t, func(r *bpf.DatapathInterface) { r.Flags &^= narrow }, func(*bed) {})
	})
	t.Run("observe", func(t *testing.T) {
		both(t, func(r *bpf.DatapathInterface) { r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE) }, func(*bed) {})
	})
	t.Run("observe by hand", func(t *testing.T) {
		both(t, func(*bpf.DatapathInterface) {}, func(b *bed) { b.switchMode(bpf.DatapathModeMODE_OBSERVE) })
	})
	t.Run("smaller than the headers", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			for _, mtu := range []uint32{0, uint32(n.ipSize() + 20)} {
				b.limit(mtu)
				frame := n.in(b.replication, syn)
				b.announces(n, frame, frame)
			}
		})
	})
	t.Run("fragment", func(t *testing.T) {
		b := newBed(t, normal)
		b.limit(narrowMTU)
		frame := networks[0].in(b.replication, syn, func(h *headers) { h.v4.Flags = layers.IPv4MoreFragments })
		b.announces(networks[0], frame, frame)
		frame = extend(networks[1].in(b.replication, syn), first)
		b.announces(networks[1], frame, frame)
	})
	t.Run("options of wrong lengths", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			syn := syn
			syn.options = []layers.TCPOption{mss(1460), sack, nop, nop}
			sackLength := ethernetSize + n.ipSize() + 20 + 4 + 1
			for _, length := range []byte{0, 1, 5, 0xff} {
				frame := setByte(sackLength, length)(n.in(b.replication, syn))
				b.announces(n, frame, frame)
			}
		})
	})
	t.Run("no flow", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			frame := n.in(b.replication, syn, destination(n.stranger))
			b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		})
	})
	t.Run("refused", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			b.configure(func(s *bpf.DatapathSettings) { s.Follow = uint8(bpf.DatapathFollowFOLLOW_PINNED) })
			b.put(halfOpen(b.answered(n, b.backup, 3)))
			b.run(ingress(b.replication, n.in(b.replication, syn)), unread(bpf.DatapathEventEVENT_REFUSED_PINNED))
		})
	})
	t.Run("interface of another", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			frame := n.in(b.backup, syn)
			b.run(ingress(b.backup, frame), b.starts(n, syn, b.backup))
		})
	})
	t.Run("leaves by its own", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, b *bed, n network) {
			b.limit(narrowMTU)
			b.put(halfOpen(b.answered(n, b.replication, 0)))
			b.run(egress(b.replication, n.out(b.replication, synAck)), nothing)
		})
	})
}

// TestSizeAnnouncedAgain: a SYN that is sent again is changed as the first was.
func TestSizeAnnouncedAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.limit(narrowMTU)
		with := func(size uint16) []byte {
			again := syn
			again.options = []layers.TCPOption{mss(size)}
			return n.in(b.replication, again)
		}
		flow := b.answered(n, b.replication, 3)
		b.put(halfOpen(flow))
		flow.Seen = justNow
		b.run(ingress(b.replication, with(1460)), effect{tables: halfOpen(flow), frame: with(largestMSS(n))})
	})
}

// TestSizeAnnouncedL3: devices without an Ethernet header are narrow as well.
func TestSizeAnnouncedL3(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) {
			r.Flags |= narrow | uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
			r.Mtu = narrowMTU
		})
		with := func(size uint16) run {
			syn := syn
			syn.options = []layers.TCPOption{mss(size)}
			return ingressL3(b.replication, n.in(b.replication, syn))
		}
		_, frame, _ := b.exec(with(1460))
		if want := with(largestMSS(n)).frame; !slices.Equal(frame, want) {
			t.Errorf("\n%x, want\n%x", frame, want)
		}
	})
}

// bare makes an interface one without Ethernet header, of the narrow MTU.
func (b *bed) bare(i nic) {
	b.t.Helper()
	b.manage(i, func(r *bpf.DatapathInterface) {
		r.Flags |= narrow | uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
		r.Mtu, r.Mac = narrowMTU, [6]uint8{}
	})
}

// TestSizeToldL3: the kernel takes the header off where the device has none. It
// takes no packet without one for a device that has one: that goes as routed. What
// goes between two such devices the test run cannot show: it takes the first bytes
// for an Ethernet header.
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
			r := egressL3(b.replication, n.out(b.replication, m))
			b.run(r, b.stays(n, m, b.replication, b.backup, r.frame, bpf.DatapathOutcomeOUTCOME_MTU))
		})
	})
}
