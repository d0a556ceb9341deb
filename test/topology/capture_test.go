// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

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
