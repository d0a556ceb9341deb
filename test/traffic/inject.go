// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// Injector sends frames of any kind onto a cable, as if whatever is behind the interface had sent them.
type Injector struct {
	t      testing.TB
	socket int
	to     unix.SockaddrLinklayer
	buffer gopacket.SerializeBuffer
}

// NewInjector opens an injector, which is closed at the end of the test.
func NewInjector(t testing.TB, at *topology.Interface) *Injector {
	t.Helper()
	i := &Injector{t: t, to: unix.SockaddrLinklayer{Ifindex: at.Index}, buffer: gopacket.NewSerializeBuffer()}
	await.Must(t, at.Host.Do(func() (err error) {
		// No protocol: it receives nothing.
		i.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(i.socket) })
	return i
}

// Send sends one frame. Lengths and checksums are filled in.
func (i *Injector) Send(parts ...gopacket.SerializableLayer) {
	i.t.Helper()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	await.Must(i.t, gopacket.SerializeLayers(i.buffer, options, parts...))
	await.Must(i.t, unix.Sendto(i.socket, i.buffer.Bytes(), 0, &i.to))
}

// SendAgain sends a captured frame once more, which has to be whole: shorter than the snap length, with its checksums
// filled in when it was sent.
func (i *Injector) SendAgain(frame *topology.Frame) {
	i.t.Helper()
	if len(frame.Data) < frame.Length {
		i.t.Fatalf("%d bytes were captured of %s", len(frame.Data), frame)
	}
	await.Must(i.t, unix.Sendto(i.socket, frame.Data, 0, &i.to))
}

// IPHeaders returns the Ethernet and IP headers of a packet.
func IPHeaders(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, protocol layers.IPProtocol) (ethernet, ip gopacket.SerializableLayer) {
	header := &layers.Ethernet{SrcMAC: fromMAC, DstMAC: toMAC, EthernetType: layers.EthernetTypeIPv4}
	if from.Is4() {
		return header, &layers.IPv4{
			Version: 4, TTL: 64, Id: 4711, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
		}
	}
	header.EthernetType = layers.EthernetTypeIPv6
	return header, &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
	}
}

// Datagram describes a UDP datagram in an Ethernet frame.
type Datagram struct {
	FromMAC, ToMAC net.HardwareAddr
	From, To       netip.AddrPort
}

// Layers returns the datagram's headers and a payload.
func (d Datagram) Layers() []gopacket.SerializableLayer {
	udp := &layers.UDP{SrcPort: layers.UDPPort(d.From.Port()), DstPort: layers.UDPPort(d.To.Port())}
	ethernet, ip := IPHeaders(d.FromMAC, d.ToMAC, d.From.Addr(), d.To.Addr(), layers.IPProtocolUDP)
	_ = udp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, udp, gopacket.Payload("datagram")}
}

// burstSize is how many frames Flood sends by one system call.
const burstSize = 64

// messageHeader is struct mmsghdr of sendmmsg(2).
type messageHeader struct {
	header unix.Msghdr
	sent   uint32
}

// burst holds frames until they are sent together.
type burst struct {
	frames  [burstSize]gopacket.SerializeBuffer
	vectors [burstSize]unix.Iovec
	headers [burstSize]messageHeader
	filled  int
}

func newBurst() *burst {
	b := new(burst)
	for i := range b.frames {
		b.frames[i] = gopacket.NewSerializeBuffer()
		b.headers[i].header.Iov = &b.vectors[i]
		b.headers[i].header.SetIovlen(1)
	}
	return b
}

// Flood sends so many frames as fast as the kernel takes them. The layers of each are asked for in turn; those of the
// last one may be used again.
func (i *Injector) Flood(count int, layers func(number int) []gopacket.SerializableLayer) {
	i.t.Helper()
	// The address is in the socket, so that no message needs one.
	await.Must(i.t, unix.Bind(i.socket, &i.to))
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	b := newBurst()
	for number := range count {
		await.Must(i.t, gopacket.SerializeLayers(b.frames[b.filled], options, layers(number)...))
		if b.filled++; b.filled == burstSize || number == count-1 {
			b.send(i.t, i.socket)
		}
	}
}

// send sends what there is by as few calls as the kernel needs.
func (b *burst) send(t testing.TB, socket int) {
	t.Helper()
	for i := range b.filled {
		data := b.frames[i].Bytes()
		b.vectors[i].Base = &data[0]
		b.vectors[i].SetLen(len(data))
	}
	for next := 0; next < b.filled; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(socket),
			uintptr(unsafe.Pointer(&b.headers[next])), uintptr(b.filled-next), 0, 0, 0)
		if errno != 0 && errno != unix.EINTR && errno != unix.ENOBUFS {
			t.Fatalf("send frames: %v", errno)
		}
		if errno == 0 {
			next += int(sent)
		}
	}
	runtime.KeepAlive(b)
	b.filled = 0
}
