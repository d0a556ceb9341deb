// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// receive reads one question.
func receive(t testing.TB, conn net.PacketConn) (question []byte, from net.Addr) {
	t.Helper()
	await.Must(t, conn.SetReadDeadline(time.Now().Add(await.AnswerTime)))
	buffer := make([]byte, 1<<16)
	n, from, err := conn.ReadFrom(buffer)
	await.Must(t, err)
	return buffer[:n], from
}

// send asks without waiting for the answer.
func (a *asker) send(server netip.Addr) {
	a.t.Helper()
	_, err := a.conn.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, daemonPort)))
	await.Must(a.t, err)
}

// heard waits for a datagram and returns who sent it.
func (a *asker) heard() netip.Addr {
	a.t.Helper()
	_, from := receive(a.t, a.conn)
	return from.(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// TestConnectedWildcard has a daemon connect the wildcard socket by which it was asked, as iperf3 does: the kernel
// has chosen its address then, and the page says to bind it.
func TestConnectedWildcard(t *testing.T) {
	s, page := traffic.NewS1(t, topology.S1Options{}), host.ReadRecipe(t, "udp-daemons")
	product.On(t, s.B.Host).Start("--config", page.Config("With replypath"))
	eachListening(t, "connected", func(t *testing.T, l listening) {
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		answer := func(conn net.PacketConn) netip.Addr {
			a := newAsker(t, s.A.Eth1, l.asked)
			a.send(eth1)
			question, _ := receive(t, conn)
			to := unix.Sockaddr(&unix.SockaddrInet6{Addr: a.at.Addr().As16(), Port: int(a.at.Port())})
			if l.network == "udp4" {
				to = &unix.SockaddrInet4{Addr: a.at.Addr().As4(), Port: int(a.at.Port())}
			}
			raw := await.Must1[syscall.RawConn](t)(conn.(*net.UDPConn).SyscallConn())
			await.Must(t, raw.Control(func(fd uintptr) {
				await.Must(t, unix.Connect(int(fd), to))
				_, err := unix.Write(int(fd), question)
				await.Must(t, err)
			}))
			return a.heard()
		}
		wildcard := l.listen(t, s.B.Host)
		page.Run(s.B.Host, "What goes wrong")
		if got := answer(wildcard); got != eth0 {
			t.Errorf("a connected wildcard socket answers from %s: the page says that it cannot be mended", got)
		}
		await.Must(t, wildcard.Close())
		if l.address = eth1.String(); eth1.Is4() {
			l.network = "udp4"
		}
		if got := answer(l.listen(t, s.B.Host)); got != eth1 {
			t.Errorf("a bound socket answers from %s", got)
		}
	})
}
