// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/test/await"
)

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
		m, fits := tcp{flags: "A", payload: 20_000}, uint16(narrowMTU-n.ipSize()-tcpSize)
		frame := n.out(b.replication, m)
		routed := pair(b.replication, b.backup, n, m, outcomeAsymmetric)
		wantSegments := func(o offload, size uint16) {
			t.Helper()
			await.Same(t, "size of the segments that leave", size, o.GSOSize)
		}
		b.put(establishedFlow(b.flow(n, m, b.backup, 0)))
		segments := n.segments(frame, m, fits)
		moved := b.sentBy(n, m, b.backup)
		moved.pairs = pairs{routed: {Flows: 1}, pair(b.replication, b.backup, n, m, outcomeCorrected): segments}
		moved.tables = b.marked(n, m, stateAsymmetric|stateCorrected, segments.Packets)
		left := readdressed(frame, b.backup.router, b.backup.MAC)
		wantSegments(b.emitOffload(n, n.ofSegments(fits), frame, b.backup.OtherEnd, left, moved), fits)

		for _, size := range []uint16{fits + 1, 9000} {
			b.put(establishedFlow(b.flow(n, m, b.backup, 0)))
			segments := n.segments(frame, m, size)
			told := b.tells(n, m, b.replication, b.backup, frame, frame)
			told.pairs = pairs{routed: {Flows: 1}}
			segments.Flows = 0
			told.pairs[pair(b.replication, b.backup, n, m, outcomeMTU)] = segments
			wantSegments(b.emitOffload(n, n.ofSegments(size), frame, b.replication.Index, told.frame, told), 0)
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
