// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	packet4 "golang.org/x/net/ipv4"
	packet6 "golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// repaired starts replypath on B with the source repair on from the start, and
// what else the configuration says.
func repaired(t *testing.T, s *topology.S1, config string, args ...string) *harness.Product {
	t.Helper()
	path := filepath.Join(t.TempDir(), "replypath.yaml")
	harness.Must(t, os.WriteFile(path, []byte("repair_udp_source: true\n"+config), 0o644))
	p := harness.On(t, s.B.Host)
	p.Start(append([]string{"--config", path}, args...)...)
	return p
}

// receive reads one question.
func receive(t testing.TB, conn net.PacketConn) (question []byte, from net.Addr) {
	t.Helper()
	harness.Must(t, conn.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	buffer := make([]byte, 1<<16)
	n, from, err := conn.ReadFrom(buffer)
	harness.Must(t, err)
	return buffer[:n], from
}

// send asks without waiting for the answer.
func (a *asker) send(server netip.Addr) {
	a.t.Helper()
	_, err := a.conn.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, daemonPort)))
	harness.Must(a.t, err)
}

// heard waits for a datagram and returns who sent it.
func (a *asker) heard() netip.Addr {
	a.t.Helper()
	_, from := receive(a.t, a.conn)
	return from.(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// TestPacketInfo has a daemon choose its source itself, by IP_PKTINFO, and even
// another than it was asked on: that is its business.
func TestPacketInfo(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		conn := l.listen(t, s.B.Host)
		p := repaired(t, s, "")
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		a := newAsker(t, s.A.Eth1, l.asked)
		a.send(eth1)
		question, from := receive(t, conn)
		for _, source := range []netip.Addr{eth0, eth1} {
			control := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16()})
			if l.network == "udp4" {
				control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source.As4()})
			}
			_, _, err := conn.(*net.UDPConn).WriteMsgUDP(question, control, from.(*net.UDPAddr))
			harness.Must(t, err)
			if got := a.heard(); got != source {
				t.Errorf("the daemon chose %s, the answer came from %s", source, got)
			}
		}
		if n := repairs(p, l.asked); n != 0 {
			t.Errorf("%v repairs of a daemon that needs none", n)
		}
	})
}

// TestBoundSocket has a daemon answer by a socket that is bound to an address,
// whichever the peer asked.
func TestBoundSocket(t *testing.T) {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			s := harness.NewS1(t, topology.S1Options{})
			eth0, eth1 := s.B.Eth0.Address(f), s.B.Eth1.Address(f)
			bound := func(address netip.Addr) net.PacketConn {
				at := netip.AddrPortFrom(address, daemonPort).String()
				conn := harness.Must1[net.PacketConn](t)(s.B.ListenPacket(t.Context(), "udp", at))
				t.Cleanup(func() { conn.Close() })
				return conn
			}
			asked, other := bound(eth1), bound(eth0)
			repaired(t, s, "")
			a := newAsker(t, s.A.Eth1, f)
			a.send(eth1)
			question, from := receive(t, asked)
			_, err := other.WriteTo(question, from)
			harness.Must(t, err)
			if got := a.heard(); got != eth0 {
				t.Errorf("a socket at %s sent from %s", eth0, got)
			}
		})
	}
}

// TestOtherNamespace has a daemon in another network namespace, below the same
// cgroup, send to the very socket that asked B: it has nothing to do with it.
func TestOtherNamespace(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		l.serve(t, s.B.Host)
		stranger := l.listen(t, s.Replication.Host)
		repaired(t, s, "")
		eth1 := s.B.Eth1.Address(l.asked)
		a := newAsker(t, s.A.Eth1, l.asked)
		a.wantFrom(eth1, eth1)
		_, err := stranger.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(a.at))
		harness.Must(t, err)
		if got, want := a.heard(), s.A.Eth1.Gateway(l.asked); got != want {
			t.Errorf("the router sent from %s, not %s", got, want)
		}
	})
}

// TestHostSpeaksFirst has the daemon's socket send to somebody who asked nothing:
// that goes as the routing table says, while others are answered.
func TestHostSpeaksFirst(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		conn := l.listen(t, s.B.Host)
		p := repaired(t, s, "")
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		a, silent := newAsker(t, s.A.Eth1, l.asked), newAsker(t, s.A.Eth0, l.asked)
		a.send(eth1)
		question, from := receive(t, conn)
		wires := harness.Tap(t, s.B)
		_, err := conn.WriteTo(question, net.UDPAddrFromAddrPort(silent.at))
		harness.Must(t, err)
		if got := silent.heard(); got != eth0 {
			t.Errorf("what the host starts came from %s", got)
		}
		wires.WantEth0("what the host starts", silent.answers())
		_, err = conn.WriteTo(question, from)
		harness.Must(t, err)
		if got := a.heard(); got != eth1 {
			t.Errorf("the answer came from %s", got)
		}
		if n := repairs(p, l.asked); n != 1 {
			t.Errorf("%v repairs", n)
		}
	})
}

// TestAddressGone takes the address away that was asked before the daemon has
// answered: the answer leaves as it would have without replypath, and does leave.
func TestAddressGone(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		conn := l.listen(t, s.B.Host)
		second := secondAddress(t, s, l.asked)
		repaired(t, s, "")
		a := newAsker(t, s.A.Eth1, l.asked)
		a.send(second.Addr())
		question, from := receive(t, conn)
		_, err := conn.WriteTo(question, from)
		harness.Must(t, err)
		if got := a.heard(); got != second.Addr() {
			t.Errorf("the answer came from %s", got)
		}
		harness.Must(t, s.B.Eth1.RemoveAddress(second))
		harness.Eventually(t, "an answer from the address that the route picks", func() error {
			if _, err := conn.WriteTo(question, from); err != nil {
				return err
			}
			if got := a.heard(); got != s.B.Eth0.Address(l.asked) {
				return errors.New("it comes from " + got.String())
			}
			return nil
		})
	})
}

// secondAddress gives B's eth1 another address.
func secondAddress(t *testing.T, s *topology.S1, f topology.Family) netip.Prefix {
	t.Helper()
	first := s.B.Eth1.Address(f)
	bits := 24
	if f == topology.IPv6 {
		bits = 64
	}
	second := netip.PrefixFrom(first.Next(), bits)
	harness.Must(t, s.B.Eth1.AddAddress(second))
	return second
}

// TestSendMany answers several peers by one sendmmsg(2), each of whom asked
// another address.
func TestSendMany(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		conn := l.listen(t, s.B.Host)
		second := secondAddress(t, s, l.asked)
		repaired(t, s, "")
		asked := []netip.Addr{s.B.Eth1.Address(l.asked), second.Addr(), s.B.Eth1.Address(l.asked)}
		askers, answers := make([]*asker, len(asked)), make([]packet4.Message, len(asked))
		for i, address := range asked {
			askers[i] = newAsker(t, s.A.Eth1, l.asked)
			askers[i].send(address)
			question, from := receive(t, conn)
			answers[i] = packet4.Message{Buffers: [][]byte{question}, Addr: from}
		}
		var n int
		var err error
		if l.network == "udp4" {
			n, err = packet4.NewPacketConn(conn).WriteBatch(answers, 0)
		} else {
			n, err = packet6.NewPacketConn(conn).WriteBatch(answers, 0)
		}
		if n != len(answers) || err != nil {
			t.Fatalf("%d answers sent, %v", n, err)
		}
		for i, address := range asked {
			if got := askers[i].heard(); got != address {
				t.Errorf("%s was asked, %s answers", address, got)
			}
		}
	})
}

// TestAlternating asks several addresses by one socket, in turn, and several
// times each: every answer comes from the one that was asked last.
func TestAlternating(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		l.serve(t, s.B.Host)
		first, second := s.B.Eth1.Address(l.asked), secondAddress(t, s, l.asked).Addr()
		third := second.Next()
		harness.Must(t, s.B.Eth1.AddAddress(netip.PrefixFrom(third, third.BitLen())))
		repaired(t, s, "")
		a := newAsker(t, s.A.Eth1, l.asked)
		for range 5 {
			for _, address := range []netip.Addr{first, second, first, first, third, second, third} {
				a.wantFrom(address, address)
			}
		}
	})
}

// TestSourceInObserve gives no source as long as nothing is to be changed, and
// does so once the daemon has heard that this ends.
func TestSourceInObserve(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		l.serve(t, s.B.Host)
		p := repaired(t, s, "", "--observe")
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		a := newAsker(t, s.A.Eth1, l.asked)
		a.wantFrom(eth1, eth0)
		if n := repairs(p, l.asked); n != 0 {
			t.Errorf("%v repairs", n)
		}
		p.Expect(0, "mode", "enforce")
		// Who asks is noted with the first question of a second.
		harness.Eventually(t, "the source is repaired", func() error {
			if from := a.ask(eth1).Addr(); from != eth1 {
				return fmt.Errorf("%s answers", from)
			}
			return nil
		})
		p.Expect(0, "mode", "observe")
		a.wantFrom(eth1, eth0)
	})
}

// TestSourceExcluded leaves alone what is excluded.
func TestSourceExcluded(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		l.serve(t, s.B.Host)
		repaired(t, s, "exclude: [{protocol: udp, self_port: 5300}]\n")
		newAsker(t, s.A.Eth1, l.asked).wantFrom(s.B.Eth1.Address(l.asked), s.B.Eth0.Address(l.asked))
	})
}

// TestConnectedWildcard has a daemon connect the wildcard socket by which it was
// asked, as iperf3 does: the kernel has chosen its address then, and the page
// says to bind it.
func TestConnectedWildcard(t *testing.T) {
	eachListening(t, func(t *testing.T, s *topology.S1, l listening) {
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		page := harness.ReadRecipe(t, "udp-daemons")
		harness.On(t, s.B.Host).Start("--config", page.Config("With replypath"))
		answer := func(conn net.PacketConn) netip.Addr {
			a := newAsker(t, s.A.Eth1, l.asked)
			a.send(eth1)
			question, _ := receive(t, conn)
			to := unix.Sockaddr(&unix.SockaddrInet6{Addr: a.at.Addr().As16(), Port: int(a.at.Port())})
			if l.network == "udp4" {
				to = &unix.SockaddrInet4{Addr: a.at.Addr().As4(), Port: int(a.at.Port())}
			}
			raw := harness.Must1[syscall.RawConn](t)(conn.(*net.UDPConn).SyscallConn())
			harness.Must(t, raw.Control(func(fd uintptr) {
				harness.Must(t, unix.Connect(int(fd), to))
				_, err := unix.Write(int(fd), question)
				harness.Must(t, err)
			}))
			return a.heard()
		}
		wildcard := l.listen(t, s.B.Host)
		page.Run(s.B.Host, "What goes wrong")
		if got := answer(wildcard); got != eth0 {
			t.Errorf("a connected wildcard socket answers from %s: the page says that it cannot be mended", got)
		}
		harness.Must(t, wildcard.Close())
		if l.address = eth1.String(); eth1.Is4() {
			l.network = "udp4"
		}
		if got := answer(l.listen(t, s.B.Host)); got != eth1 {
			t.Errorf("a bound socket answers from %s", got)
		}
	})
}
