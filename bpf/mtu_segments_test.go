// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

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

func largestMSS(n network) uint16 { return uint16(narrowMTU - n.ipSize() - 20) }

// announcements are options of a SYN, and whether the size in them stays whatever it is.
var announcements = []struct {
	name    string
	options func(size layers.TCPOption) []layers.TCPOption
	stays   bool
}{
	{"only", func(s layers.TCPOption) []layers.TCPOption { return with(s) }, false},
	{"linux", func(s layers.TCPOption) []layers.TCPOption { return with(s, sack, timestamp, nop, scale) }, false},
	{"windows", func(s layers.TCPOption) []layers.TCPOption { return with(s, nop, scale, nop, nop, sack) }, false},
	{"last", func(s layers.TCPOption) []layers.TCPOption { return with(sack, timestamp, scale, nop, s) }, false},
	{"astride two words", func(s layers.TCPOption) []layers.TCPOption { return with(nop, s, nop, nop, nop) }, false},
	{"astride two words, last", func(s layers.TCPOption) []layers.TCPOption { return with(nop, nop, nop, s, end) }, false},
	{"after 36 no-operations", func(s layers.TCPOption) []layers.TCPOption { return append(nops(36), s) }, false},
	{"before 36 no-operations", func(s layers.TCPOption) []layers.TCPOption { return append(with(s), nops(36)...) }, false},
	{"signed without options", func(s layers.TCPOption) []layers.TCPOption { return with(nop, nop, signature, s) }, false},
	{"before the end", func(s layers.TCPOption) []layers.TCPOption { return with(s, end, signed) }, false},
	{"none", func(layers.TCPOption) []layers.TCPOption { return nil }, true},
	{"others", func(layers.TCPOption) []layers.TCPOption { return with(sack, timestamp, scale, nop) }, true},
	{"after the end", func(s layers.TCPOption) []layers.TCPOption { return with(sack, end, s) }, true},
	{"signed", func(s layers.TCPOption) []layers.TCPOption { return with(s, signed) }, true},
	{"twice", func(s layers.TCPOption) []layers.TCPOption { return with(s, s) }, true},
	{"too short", func(layers.TCPOption) []layers.TCPOption { return with(option(layers.TCPOptionKindMSS, 0x20), nop) }, true},
	{"too long", func(s layers.TCPOption) []layers.TCPOption {
		return with(option(layers.TCPOptionKindMSS, append(s.OptionData, 0, 0)...), nop, nop)
	}, true},
}

func with(options ...layers.TCPOption) []layers.TCPOption { return options }

func nops(count int) []layers.TCPOption { return slices.Repeat(with(nop), count) }

// TestSizeAnnounced: a SYN by a narrow interface, and the SYN-ACK that is moved to it, announce no more than it takes,
// with whatever options, extension headers and IPv4 options; the checksum is right afterwards. A SYN that is sent again
// is changed as the first was, and so is one of a device without an Ethernet header.
func TestSizeAnnounced(t *testing.T) {
	for _, test := range announcements {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.limit(b.replication, narrowMTU)
			for _, size := range []uint16{0, 536, largestMSS(n) - 1, largestMSS(n), largestMSS(n) + 1, 1460, 8960, 0xffff} {
				becomes := either(test.stays, size, min(size, largestMSS(n)))
				in := func(size uint16, edits ...edit) []byte {
					return n.in(b.replication, tcp{flags: "S", seq: peerISN, options: test.options(mss(size))}, edits...)
				}
				for _, length := range []int{0, 4, 40} {
					b.announces(n, in(size, ipOptions(length)), in(becomes, ipOptions(length)))
				}
				if n.family == 6 {
					b.announces(n, rig.Extend(in(size), hopByHop, longOptions), rig.Extend(in(becomes), hopByHop, longOptions))
				}
				out := func(size uint16) []byte {
					return n.out(b.production, tcp{flags: "SA", seq: ourISN, ack: peerISN + 1, options: test.options(mss(size))})
				}
				b.put(halfOpen(b.answered(n, b.replication, 0)))
				b.run(egress(b.production, out(size)), b.moves(n, synAck, b.production, b.replication, out(becomes)))
			}
		})
	}
	opening := func(size uint16) tcp { return tcp{flags: "S", seq: peerISN, options: with(mss(size))} }
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.limit(b.replication, narrowMTU)
		flow := b.answered(n, b.replication, 3)
		b.put(halfOpen(flow))
		flow.Seen = justNow
		b.arrives(n, opening(1460), effect{tables: halfOpen(flow), frame: n.in(b.replication, opening(largestMSS(n)))})
	})
	eachL3(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= narrow | noHeader; r.Mtu = narrowMTU })
		_, frame, _ := b.exec(ingressL3(b.replication, n.in(b.replication, opening(1460))))
		b.wantFrame(frame, ingressL3(b.replication, n.in(b.replication, opening(largestMSS(n)))).frame)
	})
}

// announces runs a SYN that starts a flow, and has to become another.
func (b *bed) announces(n network, frame, becomes []byte) {
	b.t.Helper()
	b.put()
	want := b.starts(n, syn, b.replication)
	want.frame = becomes
	b.run(ingress(b.replication, frame), want)
}

// gso is the effect of a packet of several segments: it is counted as those, and too large if they do not fit.
func (b *bed) gso(n network, m message, frame []byte, segments count, fits bool) effect {
	want := b.moves(n, m, b.production, b.replication, frame)
	if !fits {
		want.redirect, want.frame = false, nil
		want.pairs[pair(b.production, b.replication, n, m, outcomeMTU)] = segments
	}
	segments.Flows = 1
	want.pairs[pair(b.production, b.replication, n, m, outcomeAsymmetric)] = segments
	return want
}

// TestReplyGSO: the size of the segments counts, not that of the packet, with headers as long as the packet's. The test
// run makes GSO packets without a type, which the kernel refuses to change: their senders are not told.
// TestSegmentsTooLarge has those of a type.
func TestReplyGSO(t *testing.T) {
	eachFamilyOn(t, oldKernel, func(t *testing.T, b *bed, n network) {
		for _, m := range []message{tcp{flags: "A", payload: 2900}, udp{payload: 2900}} {
			headers := uint32(n.ipSize()) + map[layers.IPProtocol]uint32{layers.IPProtocolTCP: 20, layers.IPProtocolUDP: 8}[m.protocol(n)]
			for _, test := range []struct {
				size, segments uint32
				fits           bool
			}{
				{1380, 3, true}, {1500 - headers, 3, true}, {1500 - headers + 1, 3, false},
				// A virtual machine's packet does not say how many.
				{1430, 0, true}, {1000, 0, true}, {967, 0, true}, {966, 0, true}, {725, 0, true}, {100, 0, true}, {1495, 0, false},
			} {
				b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
				r := egress(b.production, n.out(b.production, m))
				r.gsoSize, r.gsoSegs = test.size, test.segments
				segments := (2900 + test.size - 1) / test.size
				r.wireLen = uint32(len(r.frame)) + (segments-1)*(ethernetSize+headers)
				counted := count{Packets: uint64(either(test.segments != 0, test.segments, segments)), Bytes: uint64(r.wireLen)}
				b.run(r, b.gso(n, m, r.frame, counted, test.fits))
			}
		}
		chunks := sctp{payload: 2900}
		b.put(connectionlessFlow(b.flow(n, chunks, b.replication, 0)))
		r := egress(b.production, n.out(b.production, chunks))
		r.gsoSize, r.gsoSegs = 0xffff, 3 // of no one size (kernel: GSO_BY_FRAGS)
		b.run(r, b.gso(n, chunks, r.frame, count{Packets: 3, Bytes: uint64(len(r.frame))}, false))

		m := tcp{flags: "A", payload: 2900, options: with(timestamp, nop, nop)}
		frame, headers := n.out(b.production, m, ipOptions(8)), uint32(n.ipSize())+8+32
		if n.family == 6 {
			frame = rig.Extend(n.out(b.production, m), destinations)
		}
		frame = append(frame, make([]byte, ethernetSize)...) // bytes behind the IP packet are of no segment
		for excess, fits := range map[uint32]bool{0: true, 1: false} {
			b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
			r := egress(b.production, slices.Clone(frame))
			r.gsoSize, r.gsoSegs = 1500-headers+excess, 3
			b.run(r, b.gso(n, m, r.frame, count{Packets: 3, Bytes: uint64(len(frame))}, fits))
		}
	})
}

// offload is struct virtio_net_hdr of <linux/virtio_net.h>: what is left to a device to do to a packet. A packet
// socket sends and shows it, where a test run knows neither the type of a GSO packet nor a checksum that is still to
// be filled in.
type offload struct {
	Flags, GSOType        uint8
	HeaderSize, GSOSize   uint16
	CsumStart, CsumOffset uint16
}

const (
	offloadNeedsCsum = 1
	offloadTCPv4     = 1
	offloadTCPv6     = 4

	offloadSize = 10
)

var withOffload = setOption(unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)

func (o offload) before(frame []byte) []byte {
	packet, err := binary.Append(nil, binary.NativeEndian, o)
	check(err)
	return append(packet, frame...)
}

// ofSegments is that of a TCP packet with segments of this size.
func (n network) ofSegments(size uint16) offload {
	o := offload{
		Flags: offloadNeedsCsum, GSOType: offloadTCPv4, GSOSize: size,
		CsumStart: uint16(ethernetSize + n.ipSize()), CsumOffset: 16,
	}
	if n.family == 6 {
		o.GSOType = offloadTCPv6
	}
	o.HeaderSize = o.CsumStart + tcpSize
	return o
}

const tcpSize = 20

// seen waits for the frame between the host and the peer.
func (b *bed) seen(n network, wire int) (o offload, frame []byte) {
	b.t.Helper()
	for buffer := make([]byte, 1<<17); ; {
		frame = buffer[offloadSize:b.read(wire, buffer)]
		if !bytes.Contains(frame, n.peer.AsSlice()) { // neighbour discovery, multicast listeners
			continue
		}
		_, err := binary.Decode(buffer, binary.NativeEndian, &o)
		b.must(err)
		return o, frame
	}
}

// narrowDown gives the flow's interface of these tests and its device this MTU.
func (b *bed) narrowDown(mtu int) {
	b.t.Helper()
	b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Mtu = uint32(mtu); r.Flags |= narrow })
	b.must(host.SetMTU(b.backup.Device, mtu))
	b.t.Cleanup(func() { b.must(host.SetMTU(b.backup.Device, 1500)) })
}

// TestSegmentsTooLarge: a packet whose segments fit the flow's interface is moved as it is. Of larger ones the sender
// learns the size; what it sends within the same second goes as routed, as it was.
func TestSegmentsTooLarge(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		b.narrowDown(narrowMTU)
		m, fits := tcp{flags: "A", payload: 20_000}, largestMSS(n)
		frame := n.out(b.replication, m)
		routed := pair(b.replication, b.backup, n, m, outcomeAsymmetric)
		wantSegments := func(o offload, size uint16) {
			t.Helper()
			if o.GSOSize != size {
				t.Errorf("segments of %d leave, want %d", o.GSOSize, size)
			}
		}
		b.put(establishedFlow(b.flow(n, m, b.backup, 0)))
		segments := n.segments(frame, m, fits)
		moved := b.sentBy(n, m, b.backup)
		moved.pairs = pairs{routed: segments, pair(b.replication, b.backup, n, m, outcomeCorrected): segments}
		moved.tables = b.marked(n, m, stateAsymmetric|stateCorrected, segments.Packets)
		left := readdressed(frame, b.backup.router, b.backup.MAC)
		wantSegments(b.emitOffload(n, n.ofSegments(fits), frame, b.backup.OtherEnd, left, moved), fits)

		for _, size := range []uint16{fits + 1, 9000} {
			b.put(establishedFlow(b.flow(n, m, b.backup, 0)))
			segments := n.segments(frame, m, size)
			told := b.tells(n, m, b.replication, b.backup, frame, frame, n.stranger)
			told.pairs = pairs{routed: segments}
			segments.Flows = 0
			told.pairs[pair(b.replication, b.backup, n, m, outcomeMTU)] = segments
			wantSegments(b.emitOffload(n, n.ofSegments(size), frame, b.backup.Index, told.frame, told), 0)
			wantSegments(b.emitOffload(n, n.ofSegments(size), frame, b.replication.OtherEnd, frame, told.again()), size)
		}
	})
}

// emitOffload has a packet socket send a frame with what is left to a device to do, by the replication interface, and
// wants a frame to be seen at a device. It returns what is left to that.
func (b *bed) emitOffload(n network, o offload, frame []byte, at uint32, left []byte, want effect) offload {
	b.t.Helper()
	wire := b.listen(at)
	b.must(withOffload(wire))
	b.emitFrame(b.replication, o.before(frame), want, withOffload)
	o, got := b.seen(n, wire)
	b.wantFrame(got, left)
	return o
}

func (b *bed) wantFrame(got, want []byte) {
	b.t.Helper()
	await.Same(b.t, "what leaves", want, got)
}

// segments counts a packet, the first of its flow, as the segments that it becomes.
func (n network) segments(frame []byte, m tcp, size uint16) count {
	segments := (m.payload + int(size) - 1) / int(size)
	headers := ethernetSize + n.ipSize() + tcpSize
	return count{Packets: uint64(segments), Bytes: uint64(len(frame) + (segments-1)*headers), Flows: 1}
}

// TestSizeErrorPutBack: the kernel does not shorten a packet by the place of a checksum that is still to be filled in,
// as a tunnel may leave it far behind. It goes as routed, as it was.
func TestSizeErrorPutBack(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		b.limit(b.backup, narrowMTU)
		b.put(connectionlessFlow(b.flow(n, tooLarge, b.backup, 0)))
		frame := n.out(b.replication, tooLarge)
		far := offload{Flags: offloadNeedsCsum, CsumStart: uint16(ethernetSize + n.ipSize() + 200), CsumOffset: 16}
		far.HeaderSize = far.CsumStart + tcpSize
		o := b.emitOffload(n, far, frame, b.replication.OtherEnd, frame, b.keptBy(n, tooLarge, b.backup, outcomeMTU))
		if o.Flags&offloadNeedsCsum == 0 || o.CsumStart != far.CsumStart {
			t.Errorf("what is left to the device is %+v, want %+v", o, far)
		}
	})
}
