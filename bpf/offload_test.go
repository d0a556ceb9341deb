// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// offload is struct virtio_net_hdr of <linux/virtio_net.h>: what is left to a device to do to a
// packet. A packet socket sends and shows it, where a test run knows neither the type of a GSO
// packet nor a checksum that is still to be filled in.
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

// withOffload is a socket option: frames have an offload before them.
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

// leaves waits for the frame between the host and the peer that comes out of an interface.
func (b *bed) leaves(n network, wire int) (o offload, frame []byte) {
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

// listenWithOffload is listen for frames with an offload.
func (b *bed) listenWithOffload(via nic) int {
	b.t.Helper()
	wire := b.listen(via)
	b.must(withOffload(wire))
	return wire
}

// narrowDown gives the flow's interface of these tests and its device this MTU.
func (b *bed) narrowDown(mtu int) {
	b.t.Helper()
	b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Mtu = uint32(mtu); r.Flags |= narrow })
	b.must(host.SetMTU(b.backup.Device, mtu))
	b.t.Cleanup(func() { b.must(host.SetMTU(b.backup.Device, 1500)) })
}

// TestCut: what TCP leaves to be cut for a larger interface is cut smaller.
func TestCut(t *testing.T) {
	for _, c := range []struct{ mtu, size, becomes uint16 }{ // of the payload of a segment, with a header of 40 bytes
		{1280, 1460, 1240},
		{1280, 1459, 1239}, // by whole words
		{1281, 1460, 1240},
		{1280, 3000, 1240}, // in several steps
		{128, 9000, 88},    // which is more than the kernel takes off at once
	} {
		t.Run(fmt.Sprintf("%d to %d", c.size, c.mtu), func(t *testing.T) {
			eachSender(t, func(t *testing.T, b *bed, n network) {
				more := uint16(n.ipSize() - ipv4Size) // of the header
				b.narrowDown(int(c.mtu + more))
				b.wantCut(n, tcp{flags: "A", payload: 20_000}, c.size, c.becomes)
			})
		})
	}
}

// wantCut sends a packet with segments of a size, and holds what leaves by the flow's interface
// against segments of another one.
func (b *bed) wantCut(n network, m tcp, size, becomes uint16) {
	b.t.Helper()
	b.put(establishedFlow(b.flow(n, m, b.backup, 0)))
	frame := n.out(b.replication, m)
	want := b.sentBy(n, m, b.backup)
	want.pairs = pairs{
		pair(b.replication, b.backup, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC): n.segments(frame, m, size),
		pair(b.replication, b.backup, n, m, bpf.DatapathOutcomeOUTCOME_CORRECTED):  n.segments(frame, m, becomes),
	}
	want.tables = b.marked(n, m, stateAsymmetric|stateCorrected, n.segments(frame, m, becomes).Packets)
	wire := b.listenWithOffload(b.backup)
	b.emitFrame(b.replication, n.ofSegments(size).before(frame), want, withOffload)
	o, got := b.leaves(n, wire)
	if o.GSOSize != becomes {
		b.t.Errorf("segments of %d leave, want %d", o.GSOSize, becomes)
	}
	b.wantFrame(got, readdressed(frame, b.backup.router, b.backup.MAC))
}

func (b *bed) wantFrame(got, want []byte) {
	b.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("what leaves (-want +got):\n%s", diff)
	}
}

// segments counts a packet, the first of its flow, as the segments that it becomes.
func (n network) segments(frame []byte, m tcp, size uint16) count {
	segments := (m.payload + int(size) - 1) / int(size)
	headers := ethernetSize + n.ipSize() + tcpSize
	return count{Packets: uint64(segments), Bytes: uint64(len(frame) + (segments-1)*headers), Flows: 1}
}

// TestCutTooSmall: segments that carry next to nothing are not worth it.
func TestCutTooSmall(t *testing.T) {
	const smallest, size = 64, 1000
	eachSender(t, func(t *testing.T, b *bed, n network) {
		m := tcp{flags: "A", payload: 9000}
		headers := n.ipSize() + tcpSize
		b.narrowDown(headers + smallest)
		b.wantCut(n, m, size, smallest)

		b.narrowDown(headers + smallest - 1)
		b.put(establishedFlow(b.flow(n, m, b.backup, 0)))
		frame := n.out(b.replication, m)
		counted := n.segments(frame, m, size)
		want := b.keptBy(n, m, b.backup, bpf.DatapathOutcomeOUTCOME_MTU)
		want.pairs[pair(b.replication, b.backup, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] = counted
		counted.Flows = 0
		want.pairs[pair(b.replication, b.backup, n, m, bpf.DatapathOutcomeOUTCOME_MTU)] = counted
		wire := b.listenWithOffload(b.replication)
		b.emitFrame(b.replication, n.ofSegments(size).before(frame), want, withOffload)
		o, got := b.leaves(n, wire)
		if o.GSOSize != size {
			t.Errorf("segments of %d leave, want %d", o.GSOSize, size)
		}
		b.wantFrame(got, frame)
	})
}

// TestSizeErrorPutBack: the kernel does not shorten a packet by the place of a checksum that is
// still to be filled in, as a tunnel may leave it far behind. It goes as routed, as it was.
func TestSizeErrorPutBack(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		b.limitBackup()
		b.put(connectionlessFlow(b.flow(n, tooLarge, b.backup, 0)))
		frame := n.out(b.replication, tooLarge)
		far := offload{Flags: offloadNeedsCsum, CsumStart: uint16(ethernetSize + n.ipSize() + 200), CsumOffset: 16}
		far.HeaderSize = far.CsumStart + tcpSize
		wire := b.listenWithOffload(b.replication)
		b.emitFrame(b.replication, far.before(frame),
			b.keptBy(n, tooLarge, b.backup, bpf.DatapathOutcomeOUTCOME_MTU), withOffload)
		o, got := b.leaves(n, wire)
		if o.Flags&offloadNeedsCsum == 0 || o.CsumStart != far.CsumStart {
			t.Errorf("what is left to the device is %+v, want %+v", o, far)
		}
		b.wantFrame(got, frame)
	})
}
