// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// sendNumbered sends n datagrams that carry their number.
func sendNumbered(t *testing.T, from *Interface, to netip.Addr, n int) {
	t.Helper()
	conn, err := from.Host.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(from.Address(FamilyOf(to)), 4000).String())
	await.Must(t, err)
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
		await.Must(t, a.Resolve(await.Within(t, await.AnswerTime), b.Address(f)))
		// Room for all, however late the reader gets the processor.
		sender := await.Must1[*Capture](t)(a.Capture(CaptureOptions{Backlog: 2 * count}))
		receiver := await.Must1[*Capture](t)(b.Capture(CaptureOptions{Backlog: 2 * count}))
		sendNumbered(t, a, b.Address(f), count)
		match := All(UDP, From(a.Address(f)), To(b.Address(f)), FromPort(4000), ToPort(9), FromMAC(a.MAC), ToMAC(b.MAC))
		for _, c := range []struct {
			capture   *Capture
			direction Direction
		}{{sender, Sent}, {receiver, Received}} {
			await.Must(t, c.capture.Stop())
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
	await.Must(t, a.Resolve(await.Within(t, await.AnswerTime), b.Address(IPv4)))
	c, err := b.Capture(CaptureOptions{Backlog: 1})
	await.Must(t, err)
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

// TestCaptureOutlivesLinkDown shows that frames are captured again when the interface comes back.
func TestCaptureOutlivesLinkDown(t *testing.T) {
	_, a, b := newPair(t)
	c := capture(t, b)
	await.Must(t, b.SetDown())
	await.Must(t, b.SetUp())
	await.Must(t, a.WaitReady(await.Within(t, await.AnswerTime)))
	await.Must(t, askPing(await.Within(t, await.AnswerTime), a.Host, b.Address(IPv4)))
	if n := c.Count(EchoRequest); n != 1 {
		t.Errorf("%d requests, not 1", n)
	}
	await.Must(t, c.Stop())
}

// TestCapturesShare: captures of one interface see what passes from their own beginning to their own end, and nothing
// that passes while none looks.
func TestCapturesShare(t *testing.T) {
	_, a, b := newPair(t)
	ask := func() { await.Must(t, askPing(await.Within(t, await.AnswerTime), a.Host, b.Address(IPv4))) }
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
	await.Must(t, first.Stop())
	ask()
	want(first, 2)
	if n := len(second.Take(EchoRequest)); n != 2 {
		t.Errorf("%d requests taken, not 2", n)
	}
	ask()
	want(second, 1)
	await.Must(t, second.Stop())
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
	await.Must(t, capture(t, b).Stop())
	away := await.Must1[*Host](t)(n.Host("away"))
	link := await.Must1[netlink.Link](t)(b.Link())
	await.Must(t, b.Host.Netlink().LinkSetNsFd(link, int(away.Namespace())))
	await.Must(t, away.Netlink().LinkSetNsFd(link, int(b.Host.Namespace())))
	await.Must(t, b.SetUp())
	await.Must(t, b.AddAddress(b.Addresses[0]))
	await.Must(t, a.WaitReady(await.Within(t, await.AnswerTime)))
	c := capture(t, b)
	await.Must(t, askPing(await.Within(t, await.AnswerTime), a.Host, b.Address(FamilyOf(b.Addresses[0].Addr()))))
	if c.Count(EchoRequest) == 0 {
		t.Error("nothing was captured")
	}
}

// serialize builds a frame.
func serialize(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	await.Must(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, parts...))
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
