// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// datagrams is a UDP flow that a client began, whose server has connected its socket since.
type datagrams struct {
	client  net.PacketConn
	server  net.Conn
	headers int // of a datagram
}

// askDatagrams has a client ask a server at an address of an interface.
func askDatagrams(t *testing.T, client, server *topology.Interface, f topology.Family) *datagrams {
	t.Helper()
	ctx := await.Within(t, await.AnswerTime)
	listen := func(at *topology.Interface) net.PacketConn {
		conn := await.Must1[net.PacketConn](t)(at.Host.ListenPacket(ctx, "udp", netip.AddrPortFrom(at.Address(f), 0).String()))
		deadline, _ := ctx.Deadline()
		await.Must(t, conn.SetDeadline(deadline))
		return conn
	}
	d := &datagrams{client: listen(client), headers: map[topology.Family]int{topology.IPv4: 28, topology.IPv6: 48}[f]}
	t.Cleanup(func() { d.client.Close() })
	listener := listen(server)
	await.Must1[int](t)(d.client.WriteTo([]byte("question"), listener.LocalAddr()))
	_, from, err := listener.ReadFrom(make([]byte, 100))
	await.Must(t, err)
	await.Must(t, listener.Close())
	self := listener.LocalAddr().(*net.UDPAddr).AddrPort()
	d.server = await.Must1[net.Conn](t)(server.Host.Dial(ctx, "udp", from.String(), topology.FromAddress(self)))
	t.Cleanup(func() { d.server.Close() })
	deadline, _ := ctx.Deadline()
	await.Must(t, d.server.SetDeadline(deadline))
	return d
}

// send sends an answer whose IP packet has this size.
func (d *datagrams) send(t *testing.T, size int) {
	t.Helper()
	if _, err := d.server.Write(make([]byte, size-d.headers)); err != nil {
		t.Errorf("send %d bytes: %v", size, err)
	}
}

// wantTooLarge wants the server's socket to learn that its last answer was too large.
func (d *datagrams) wantTooLarge(t *testing.T) {
	t.Helper()
	if _, err := d.server.Read(make([]byte, 100)); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("read %v, not that a datagram was too large", err)
	}
}

// wantArrival wants the next datagram at the client to have this size.
func (d *datagrams) wantArrival(t *testing.T, size int) {
	t.Helper()
	n, _, err := d.client.ReadFrom(make([]byte, 1<<16))
	if err != nil || n+d.headers != size {
		t.Errorf("read %d bytes, %v, not %d", n+d.headers, err, size)
	}
}

// discover has the server's socket deal with path MTUs in a way of IP_PMTUDISC_*, whose numbers IPv6 shares.
func (d *datagrams) discover(t *testing.T, f topology.Family, way int) {
	t.Helper()
	raw := await.Must1[syscall.RawConn](t)(d.server.(*net.UDPConn).SyscallConn())
	var err error
	await.Must(t, raw.Control(func(fd uintptr) {
		if f == topology.IPv4 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, way)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, way)
		}
	}))
	await.Must(t, err)
}
