// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// serverFirst is a service whose server speaks first, as those of SSH, SMTP and MySQL do.
type serverFirst struct {
	*topology.TwoNIC
	listener net.Listener
	self     netip.AddrPort
	peer     netip.AddrPort // of a station that answers nothing: the test speaks for it
	injector *traffic.Injector
}

func newServerFirst(t *testing.T, n *topology.TwoNIC, f topology.Family) *serverFirst {
	t.Helper()
	l := await.Must1[net.Listener](t)(n.Server.Listen(t.Context(), "tcp", netip.AddrPortFrom(n.Server.Eth1.Address(f), 0).String()))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("banner"))
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return &serverFirst{
		TwoNIC: n, listener: l, self: l.Addr().(*net.TCPAddr).AddrPort(),
		peer: netip.AddrPortFrom(n.ClientEth0.Address(f).Next(), 40000), injector: traffic.NewInjector(t, n.Server.Eth1.Peer()),
	}
}

// next is the same with another port of the peer's, by which nobody has asked yet.
func (s *serverFirst) next() {
	s.peer = netip.AddrPortFrom(s.peer.Addr(), s.peer.Port()+1)
}

func (s *serverFirst) send(tcp layers.TCP) {
	tcp.SrcPort, tcp.DstPort, tcp.Window = layers.TCPPort(s.peer.Port()), layers.TCPPort(s.self.Port()), 65535
	s.injector.Send(segmentFrame(s.Server.Eth1.Peer().MAC, s.Server.Eth1.MAC, s.peer.Addr(), s.self.Addr(), &tcp)...)
}

func (s *serverFirst) answers(flags topology.TCPFlags) topology.Filter {
	return topology.All(topology.From(s.self.Addr()), topology.FromPort(s.self.Port()), topology.To(s.peer.Addr()),
		topology.ToPort(s.peer.Port()), topology.Flags(flags, flags))
}

// ask sends a SYN, and returns what ends the handshake once the SYN-ACK has left by an interface.
func (s *serverFirst) ask(t *testing.T, by *topology.Interface) layers.TCP {
	t.Helper()
	const number = 1000
	exits := wire.TapAll(t, by)
	s.send(layers.TCP{SYN: true, Seq: number})
	frame := wait(t, exits.At(by), s.answers(topology.SYN|topology.ACK))
	synAck := frame.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
	return layers.TCP{ACK: true, Seq: number + 1, Ack: synAck.Seq + 1}
}

// wantBanner ends the handshake, and wants what the server has to say by eth1, or by eth0.
func (s *serverFirst) wantBanner(t *testing.T, ack layers.TCP, eth1 bool) {
	t.Helper()
	wires := wire.Tap(t, s.Server)
	by := wires.Eth0
	if eth1 {
		by = wires.Eth1
	}
	s.send(ack)
	wait(t, by, s.answers(topology.PSH))
	wires.Want(eth1, "the banner", s.answers(topology.PSH))
}

// TestLastACKOfNoEntry has the entry of a handshake be forgotten between the SYN-ACK and the ACK that answers it, with and
// without SYN cookies. The kernel knows that the ACK is genuine, so that the server's first words leave by eth1. An ACK
// with another number proves nothing.
func TestLastACKOfNoEntry(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	services := make(map[topology.Family]*serverFirst)
	for _, f := range n.Families() {
		services[f] = newServerFirst(t, n, f)
		services[f].wantBanner(t, services[f].ask(t, n.Server.Eth0), false)
	}
	p := product.On(t, n.Server.Host)
	p.Start()
	for _, cookies := range []int{1, 2} {
		await.Must(t, n.Server.SetSysctl("net/ipv4/tcp_syncookies", fmt.Sprint(cookies)))
		for f, s := range services {
			t.Run(fmt.Sprintf("%s/tcp_syncookies %d", f, cookies), func(t *testing.T) {
				s.next()
				ack := s.ask(t, n.Server.Eth1)
				p.In(t).Expect(0, "flows", "flush")
				forged := ack
				forged.Ack += 1 << 16
				s.send(forged)
				wantNoFlows(t, p.In(t))
				s.wantBanner(t, ack, true)
			})
		}
	}
}
