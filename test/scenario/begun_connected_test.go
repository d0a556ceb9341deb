// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// dialogue is what a server that listens at its eth1 has with a client: by a socket that shares the
// listener's address and port, and is connected to the client, as those of DTLS and QUIC servers are.
// The routing table leads to the client by eth0.
type dialogue struct {
	n                  *topology.TwoNIC
	client             net.PacketConn
	listener, server   *net.UDPConn
	clientAt, serverAt netip.AddrPort
}

// shared lets sockets share an address and port.
var shared setting = func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }

// newDialogue opens the client's socket and the server's listener.
func newDialogue(t *testing.T, n *topology.TwoNIC, f topology.Family) *dialogue {
	t.Helper()
	s := &dialogue{n: n}
	s.client = harness.Must1[net.PacketConn](t)(n.Client.ListenPacket(t.Context(), "udp",
		netip.AddrPortFrom(n.ClientEth0.Address(f), 0).String()))
	t.Cleanup(func() { s.client.Close() })
	config := net.ListenConfig{Control: shared.control}
	harness.Must(t, n.Server.Do(func() error {
		l, err := config.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(n.Server.Eth1.Address(f), 0).String())
		if err == nil {
			s.listener = l.(*net.UDPConn)
		}
		return err
	}))
	t.Cleanup(func() { s.listener.Close() })
	s.clientAt = s.client.LocalAddr().(*net.UDPAddr).AddrPort()
	s.serverAt = s.listener.LocalAddr().(*net.UDPAddr).AddrPort()
	return s
}

// connect gives the server the socket for this client.
func (s *dialogue) connect(t *testing.T) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(s.serverAt), Control: shared.control}
	harness.Must(t, s.n.Server.Do(func() error {
		conn, err := dialer.DialContext(t.Context(), "udp", s.clientAt.String())
		if err == nil {
			s.server = conn.(*net.UDPConn)
		}
		return err
	}))
	t.Cleanup(func() { s.server.Close() })
}

// ask has the client send a datagram, which this socket of the server's takes.
func (s *dialogue) ask(t *testing.T, taker *net.UDPConn) {
	t.Helper()
	harness.Must1[int](t)(s.client.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(s.serverAt)))
	take(t, taker)
}

// answer has the server's connected socket send one.
func (s *dialogue) answer(t *testing.T) {
	t.Helper()
	harness.Must1[int](t)(s.server.Write([]byte("answer")))
	take(t, s.client)
}

func take(t *testing.T, at net.PacketConn) {
	t.Helper()
	harness.Must(t, at.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	_, _, err := at.ReadFrom(make([]byte, 100))
	harness.Must(t, err)
}

// answers matches what the server sends.
func (s *dialogue) answers() topology.Filter {
	return topology.All(topology.UDP, topology.From(s.serverAt.Addr()), topology.FromPort(s.serverAt.Port()), topology.ToPort(s.clientAt.Port()))
}

// talk has the client ask a few times, and is what came of that.
func (s *dialogue) talk(t *testing.T) *harness.Wires {
	t.Helper()
	wires := harness.Tap(t, s.n.Server)
	for range 3 {
		s.ask(t, s.server)
		s.answer(t)
		s.answer(t)
	}
	return wires
}

// TestConnectedServer: who began a dialogue decides which way the server sends, also where it has been
// quiet for longer than a flow lives, and the client goes on.
func TestConnectedServer(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	waitForBeginnings(t, n)
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			t.Run("the client began", func(t *testing.T) {
				s := newDialogue(t, n, f)
				s.ask(t, s.listener)
				s.connect(t)
				for range 2 {
					s.talk(t).WantEth1("the client began", s.answers())
					p.In(t).Age(200 * time.Second)
				}
				s.talk(t).WantEth1("the client began, and was quiet", s.answers())
			})
			t.Run("the server began", func(t *testing.T) {
				s := newDialogue(t, n, f)
				s.connect(t)
				s.answer(t)
				for range 2 {
					s.talk(t).WantEth0("the server began", s.answers())
					p.In(t).Age(200 * time.Second)
				}
				s.talk(t).WantEth0("the server began, and was quiet", s.answers())
			})
		})
	}
}
