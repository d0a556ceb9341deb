// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sendNumbered sends n datagrams that carry their number.
func sendNumbered(t *testing.T, from *Interface, to netip.Addr, n int) {
	t.Helper()
	conn, err := from.Host.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(from.Address(FamilyOf(to)), 4000).String())
	must(t, err)
	defer conn.Close()
	target := net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9))
	for i := range n {
		_, err := conn.WriteTo(binary.BigEndian.AppendUint32(nil, uint32(i)), target)
		// The other end says that nobody listens.
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
}

// TestCaptureIsComplete compares two captures of one cable with what was sent.
func TestCaptureIsComplete(t *testing.T) {
	const count = 20_000
	_, a, b := newPair(t)
	for _, f := range []Family{IPv4, IPv6} {
		must(t, a.Resolve(within(t, answerTime), b.Address(f)))
		// Room for all, however late the reader gets the processor.
		sender := must1[*Capture](t)(a.Capture(CaptureOptions{Backlog: 2 * count}))
		receiver := must1[*Capture](t)(b.Capture(CaptureOptions{Backlog: 2 * count}))
		sendNumbered(t, a, b.Address(f), count)
		match := All(UDP, From(a.Address(f)), To(b.Address(f)), FromPort(4000), ToPort(9), FromMAC(a.MAC), ToMAC(b.MAC))
		for _, c := range []struct {
			capture   *Capture
			direction Direction
		}{{sender, Sent}, {receiver, Received}} {
			must(t, c.capture.Stop())
			frames := c.capture.Frames(All(match, Going(c.direction)))
			if len(frames) != count || c.capture.Count(match) != count {
				t.Fatalf("%s, %s: %d of %d frames", f, c.direction, len(frames), count)
			}
			for i, frame := range frames {
				payload := frame.Packet().ApplicationLayer().Payload()
				if got := binary.BigEndian.Uint32(payload); got != uint32(i) {
					t.Fatalf("%s, %s: frame %d has number %d", f, c.direction, i, got)
				}
			}
		}
	}
}

// TestCaptureReportsLoss keeps the reader away until the ring has overflowed.
func TestCaptureReportsLoss(t *testing.T) {
	_, a, b := newPair(t)
	must(t, a.Resolve(within(t, answerTime), b.Address(IPv4)))
	c, err := b.Capture(CaptureOptions{Backlog: 1})
	must(t, err)
	c.from.mu.Lock()
	sendNumbered(t, a, b.Address(IPv4), 2*c.from.ring.slots)
	c.from.mu.Unlock()
	if err := c.Stop(); err == nil {
		t.Error("lost frames were not reported")
	}
	if err := c.Stop(); err == nil {
		t.Error("the second call did not report the loss")
	}
	if n := c.Count(UDP); n == 0 {
		t.Error("no frame was kept")
	}
	if err := b.Host.network.Close(); err == nil {
		t.Error("closing the network did not report the loss")
	}
}

func TestCaptureWait(t *testing.T) {
	_, a, b := newPair(t)
	c := capture(t, b)
	const count = 3
	waited := make(chan error, 1)
	go func() {
		frames, err := c.WaitCount(within(t, answerTime), count, EchoRequest)
		if err == nil && len(frames) < count {
			err = errors.New("too few frames")
		}
		waited <- err
	}()
	for range count {
		must(t, askPing(within(t, answerTime), a.Host, b.Address(IPv4)))
	}
	must(t, <-waited)
	// What has passed already counts as well.
	frame, err := c.Wait(within(t, answerTime), EchoReply)
	must(t, err)
	if frame.Source != b.Address(IPv4) || frame.Direction != Sent || frame.Time.IsZero() {
		t.Errorf("got %s, %s", frame, frame.Direction)
	}
	if _, err := c.Wait(within(t, silenceTime), TCP); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v", err)
	}
	stopped := make(chan error, 1)
	go func() {
		_, err := c.Wait(within(t, answerTime), TCP)
		stopped <- err
	}()
	must(t, c.Stop())
	if err := <-stopped; !errors.Is(err, ErrStopped) {
		t.Errorf("got error %v", err)
	}
}

// TestCaptureOutlivesLinkDown shows that frames are captured again when the interface comes back.
func TestCaptureOutlivesLinkDown(t *testing.T) {
	_, a, b := newPair(t)
	c := capture(t, b)
	must(t, b.SetDown())
	must(t, b.SetUp())
	must(t, a.WaitReady(within(t, answerTime)))
	must(t, askPing(within(t, answerTime), a.Host, b.Address(IPv4)))
	if n := c.Count(EchoRequest); n != 1 {
		t.Errorf("%d requests, not 1", n)
	}
	must(t, c.Stop())
}

// TestCapturesShare: captures of one interface see what passes from their own beginning to their own end, and nothing
// that passes while none looks.
func TestCapturesShare(t *testing.T) {
	_, a, b := newPair(t)
	ask := func() { must(t, askPing(within(t, answerTime), a.Host, b.Address(IPv4))) }
	want := func(c *Capture, requests int) {
		t.Helper()
		if n := c.Count(EchoRequest); n != requests {
			t.Errorf("%d requests, not %d", n, requests)
		}
	}
	first := capture(t, b)
	ask()
	second := capture(t, b)
	ask()
	want(first, 2)
	want(second, 1)
	must(t, first.Stop())
	ask()
	want(first, 2)
	if n := len(second.Take(EchoRequest)); n != 2 {
		t.Errorf("%d requests taken, not 2", n)
	}
	ask()
	want(second, 1)
	must(t, second.Stop())
	ask()
	third := capture(t, b)
	want(third, 0)
	third.from.mu.Lock()
	kept := len(third.from.frames)
	third.from.mu.Unlock()
	if kept > 0 {
		t.Errorf("%d frames are kept that nobody looks at", kept)
	}
	ask()
	want(third, 1)
	want(second, 1)
}

// TestCaptureOfWhatCameBack: a device that was in another namespace meanwhile is captured anew.
func TestCaptureOfWhatCameBack(t *testing.T) {
	n, a, b := newPair(t)
	must(t, capture(t, b).Stop())
	away := must1[*Host](t)(n.Host("away"))
	link := must1[netlink.Link](t)(b.Link())
	must(t, b.Host.Netlink().LinkSetNsFd(link, int(away.Namespace())))
	must(t, away.Netlink().LinkSetNsFd(link, int(b.Host.Namespace())))
	must(t, b.SetUp())
	must(t, b.AddAddress(b.Addresses[0]))
	must(t, a.WaitReady(within(t, answerTime)))
	c := capture(t, b)
	must(t, askPing(within(t, answerTime), a.Host, b.Address(FamilyOf(b.Addresses[0].Addr()))))
	if c.Count(EchoRequest) == 0 {
		t.Error("nothing was captured")
	}
}

const echoPort = 7

// bulk sends bytes by TCP and returns when they have been read.
func bulk(t *testing.T, from, to *Interface, size int) {
	t.Helper()
	l, err := to.Host.Listen(t.Context(), "tcp", netip.AddrPortFrom(to.Address(IPv4), echoPort).String())
	must(t, err)
	defer l.Close()
	read := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.CopyN(io.Discard, conn, int64(size))
			err = errors.Join(err, conn.Close())
		}
		read <- err
	}()
	conn, err := from.Host.Dial(within(t, answerTime), "tcp", l.Addr().String())
	must(t, err)
	defer conn.Close()
	_, err = conn.Write(make([]byte, size))
	must(t, err)
	must(t, <-read)
}

// TestCaptureSegmentation shows that frames above the MTU are captured with their length, and that they vanish with the
// offload.
func TestCaptureSegmentation(t *testing.T) {
	const size = 1 << 22
	const largest = 1500 + 14
	_, a, b := newPair(t)
	for _, offload := range []bool{true, false} {
		if !offload {
			must(t, a.SetOffloads(Offloads{NoSegmentation: true, NoChecksum: true, NoReceive: true}))
		}
		c := capture(t, b)
		bulk(t, a, b, size)
		must(t, c.Stop())
		payload, longest := 0, 0
		for _, f := range c.Frames(All(TCP, Going(Received))) {
			if len(f.Data) > snapLength {
				t.Fatalf("%d bytes were kept", len(f.Data))
			}
			tcp := f.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
			ip := f.Packet().Layer(layers.LayerTypeIPv4).(*layers.IPv4)
			payload += f.Length - 14 - int(ip.IHL)*4 - int(tcp.DataOffset)*4
			longest = max(longest, f.Length)
		}
		if payload < size {
			t.Errorf("offload %t: %d bytes of %d captured", offload, payload, size)
		}
		if (longest > largest) != offload {
			t.Errorf("offload %t: the longest frame has %d bytes", offload, longest)
		}
	}
}

// serialize builds a frame.
func serialize(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, parts...))
	return buffer.Bytes()
}

func TestFrame(t *testing.T) {
	source, destination := mac(1, 0), mac(2, 0)
	ethernet := func(kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: source, DstMAC: destination, EthernetType: kind}
	}
	v4 := func(protocol layers.IPProtocol, from, to byte) *layers.IPv4 {
		return &layers.IPv4{
			Version: 4, IHL: 5, TTL: 64, Protocol: protocol,
			SrcIP: net.IP{10, 0, 0, from}, DstIP: net.IP{10, 0, 0, to},
		}
	}
	v6 := func(next layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: next,
			SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2"),
		}
	}
	tcp := &layers.TCP{SrcPort: 5432, DstPort: 4000, SYN: true, ACK: true, DataOffset: 5}
	udp := &layers.UDP{SrcPort: 53, DstPort: 4000}
	fragment := v4(layers.IPProtocolUDP, 1, 2)
	fragment.FragOffset = 185
	for _, c := range []struct {
		name string
		slot slot
		want string
	}{
		{"tcp", slot{data: serialize(t, ethernet(layers.EthernetTypeIPv4), v4(layers.IPProtocolTCP, 1, 2), tcp)},
			"10.0.0.1:5432 > 10.0.0.2:4000 TCP [S.], 02:00:00:00:01:00 > 02:00:00:00:02:00, 60 bytes"},
		{"udp6", slot{data: serialize(t, ethernet(layers.EthernetTypeIPv6), v6(layers.IPProtocolUDP), udp)},
			"[2001:db8::1]:53 > [2001:db8::2]:4000 UDP, 02:00:00:00:01:00 > 02:00:00:00:02:00, 62 bytes"},
		{"extension header", slot{data: serialize(t, ethernet(layers.EthernetTypeIPv6), v6(layers.IPProtocolIPv6Destination),
			gopacket.Payload([]byte{byte(layers.IPProtocolUDP), 0, 1, 4, 0, 0, 0, 0}), udp)},
			"[2001:db8::1]:53 > [2001:db8::2]:4000 UDP, 02:00:00:00:01:00 > 02:00:00:00:02:00, 70 bytes"},
		{"later fragment", slot{data: serialize(t, ethernet(layers.EthernetTypeIPv4), fragment, gopacket.Payload("rest"))},
			"10.0.0.1 > 10.0.0.2 UDP, 02:00:00:00:01:00 > 02:00:00:00:02:00, 60 bytes"},
		{"outer header of a tunnel", slot{data: serialize(t, ethernet(layers.EthernetTypeIPv4),
			v4(layers.IPProtocolIPv4, 1, 2), v4(layers.IPProtocolUDP, 3, 4), udp)},
			"10.0.0.1 > 10.0.0.2 IPv4, 02:00:00:00:01:00 > 02:00:00:00:02:00, 62 bytes"},
		{"vlan tag beside the frame", slot{tpid: uint16(layers.EthernetTypeDot1Q), vlan: 7,
			data: serialize(t, ethernet(layers.EthernetTypeIPv4), v4(layers.IPProtocolUDP, 1, 2), udp)},
			"10.0.0.1:53 > 10.0.0.2:4000 UDP, 02:00:00:00:01:00 > 02:00:00:00:02:00, 64 bytes"},
		{"without link header", slot{hardware: unix.ARPHRD_NONE, data: serialize(t, v4(layers.IPProtocolUDP, 1, 2), udp)},
			"10.0.0.1:53 > 10.0.0.2:4000 UDP,  > , 28 bytes"},
		{"other", slot{data: serialize(t, ethernet(layers.EthernetTypeLLC), gopacket.Payload("x"))},
			"02:00:00:00:01:00 > 02:00:00:00:02:00, 60 bytes"},
		{"truncated", slot{data: serialize(t, ethernet(layers.EthernetTypeIPv4))[:13]}, " > , 13 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.slot.hardware == 0 {
				c.slot.hardware = unix.ARPHRD_ETHER
			}
			c.slot.length = len(c.slot.data)
			f := newFrame(c.slot)
			if got := f.String(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if f.Packet().Metadata().Length != f.Length {
				t.Error("the decoded packet has another length")
			}
		})
	}
}

func TestFilters(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	f := &Frame{
		Direction: Sent, Source: a, Destination: b, Protocol: layers.IPProtocolTCP,
		SourcePort: 1, DestinationPort: 2, TCPFlags: SYN | PSH, SourceMAC: mac(1, 0), DestinationMAC: mac(2, 0),
	}
	for _, c := range []struct {
		name  string
		match Filter
		want  bool
	}{
		{"any", Any, true},
		{"all of none", All(), true},
		{"one of none", OneOf(), false},
		{"all", All(TCP, UDP), false},
		{"one of", OneOf(UDP, TCP), true},
		{"not", Not(TCP), false},
		{"direction", Going(Sent), true},
		{"other direction", Going(Received), false},
		{"from", From(a), true},
		{"from the destination", From(b), false},
		{"to", To(b), true},
		{"between", Between(b, a), true},
		{"between others", Between(a, a), false},
		{"ports", All(FromPort(1), ToPort(2)), true},
		{"other port", OneOf(FromPort(2), ToPort(1)), false},
		{"macs", All(FromMAC(mac(1, 0)), ToMAC(mac(2, 0))), true},
		{"other mac", OneOf(FromMAC(mac(2, 0)), ToMAC(mac(1, 0))), false},
		{"syn alone", Flags(SYN|ACK, SYN), true},
		{"syn and ack", Flags(SYN|ACK, SYN|ACK), false},
		{"echo", OneOf(EchoRequest, EchoReply), false},
		{"protocol", Protocol(layers.IPProtocolTCP), true},
	} {
		if got := c.match(f); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
