// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// resetOfFilter has a firewall answer a forged segment of a live connection with a RST, as rules for ct state invalid do:
// minutes later the server still speaks by eth1.
func (c bed) resetOfFilter(t *testing.T, f topology.Family) {
	host.Nft(t, c.Server.Host, `table inet invalid { chain input { type filter hook input priority filter
		tcp window 4711 reject with tcp reset
	}
	}`)
	defer host.Shell(t, c.Server.Host, "nft delete table inet invalid")
	p := c.connected(t, f)
	client := netip.MustParseAddrPort(p.client.LocalAddr().String())
	c.wantEth1(t, "the RST of the filter", p, func() {
		exits := wire.TapAll(t, c.eth1.nics...)
		traffic.NewInjector(t, c.Server.Eth1.Peer()).Send(segmentFrame(c.Server.Eth1.Peer().MAC, c.Server.Eth1.MAC,
			client.Addr(), c.Server.Eth1.Address(f), &layers.TCP{
				SrcPort: layers.TCPPort(client.Port()), DstPort: layers.TCPPort(p.port()), ACK: true, Seq: 4711, Ack: 4711, Window: 4711,
			})...)
		wait(t, exits.At(c.Server.Eth1), topology.All(p.segments, topology.Flags(topology.RST, topology.RST)))
	})
	c.p.In(t).Age(200 * time.Second)
	c.wantEth1(t, "what the server says", p, func() { push(t, p.server, p.client) })
}

// peerAway has the server close a connection whose client cannot be reached for minutes: its FIN leaves by eth1 each time
// that it is sent again, until it is answered.
func (c bed) peerAway(t *testing.T, f topology.Family) {
	p := c.connected(t, f)
	host.Nft(t, c.Core.Host, fmt.Sprintf(`table inet away { chain forward { type filter hook forward priority filter
		tcp dport %d drop
	}
	}`, p.port()))
	await.Must(t, p.server.CloseWrite())
	for range 4 {
		c.wantEth1(t, "the FIN", p, func() {
			wait(t, wire.TapAll(t, c.eth1.nics...).At(c.Server.Eth1), topology.All(p.segments, topology.Flags(topology.FIN, topology.FIN)))
		})
		c.p.In(t).Age(100 * time.Second)
	}
	host.Shell(t, c.Core.Host, "nft delete table inet away")
	c.wantEth1(t, "the end", p, func() { c.end(t, p, p.server, p.client) })
}

// TestLists has eth1 hand frames up in lists, as NICs do: the programs see a whole list before its first frame is with its
// socket. Questions of every kind come so, and the last segment of a client together with a RST: the connection is over.
func TestLists(t *testing.T) {
	c := newBed(t, topology.TwoNICOptions{Policy: topology.StrictSource, Offloads: topology.WireExact})
	await.Must(t, c.Server.Eth1.ReceiveInLists(5*time.Millisecond))
	c.start(t)
	traffic.EachQuestion(t, "answers", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		conversation := traffic.NewConversation(t, kind, c.ClientEth0, c.Server.Eth1.Address(f))
		c.eth1.wantAnswers(t, conversation, conversation.Answers())
	})
	for _, f := range traffic.Families {
		for name, data := range map[string]string{"data and a RST": "data", "the last ACK and a RST": ""} {
			t.Run(name+"/"+f.String(), func(t *testing.T) { c.resetInList(t, f, data) })
		}
	}
}

// resetInList opens a connection, frame by frame, and sends its last segment together with a RST: with data that is after
// the handshake, without it ends that.
func (c bed) resetInList(t *testing.T, f topology.Family, data string) {
	l := c.listen(t, f, dialect{})
	server := netip.MustParseAddrPort(l.Addr().String())
	client := netip.AddrPortFrom(addresses("10.9.0.77", "2001:db8:9::77")[f], 4000+uint16(len(data)))
	segments := topology.All(topology.TCP, topology.FromPort(server.Port()), topology.ToPort(client.Port()))
	exits := wire.TapAll(t, c.eth1.nics...)
	injector := traffic.NewInjector(t, c.Server.Eth1.Peer())
	send := func(tcp layers.TCP, payload string) {
		tcp.SrcPort, tcp.DstPort, tcp.Window = layers.TCPPort(client.Port()), layers.TCPPort(server.Port()), 1000
		frame := segmentFrame(c.Server.Eth1.Peer().MAC, c.Server.Eth1.MAC, client.Addr(), server.Addr(), &tcp)
		frame[len(frame)-1] = gopacket.Payload(payload)
		injector.Send(frame...)
	}
	send(layers.TCP{SYN: true, Seq: 1000}, "")
	answer := wait(t, exits.At(c.Server.Eth1), segments).Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
	ack := layers.TCP{ACK: true, Seq: 1001, Ack: answer.Seq + 1}
	if data != "" {
		send(ack, "")
		defer await.Must1[net.Conn](t)(l.Accept()).Close()
	}
	send(ack, data)
	send(layers.TCP{RST: true, Seq: ack.Seq + uint32(len(data))}, "")
	await.Eventually(t, "the connection is over", func() error {
		flows := c.p.Flows("--peer", client.Addr().String(), "--protocol", "tcp")
		for _, flow := range flows {
			if flow.PeerPort == client.Port() && flow.Closing {
				return nil
			}
		}
		return fmt.Errorf("flows: %+v", flows)
	})
}

// vanish takes a connection away without a word to the other end, as a reboot does.
func vanish(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	setOption(t, conn, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	await.Must(t, conn.Close())
}

// read waits for what a connection has to say, for so long.
func read(t *testing.T, conn net.Conn, patience time.Duration) error {
	t.Helper()
	await.Must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := conn.Read(make([]byte, 100))
	return err
}

// TestReboot has the client go on with connections that a server knows nothing of any
// more, replypath included: the resets leave by eth1, and end them, whether the service listens
// again or not. Without replypath they are lost, and the client goes on and on.
func TestReboot(t *testing.T) {
	c := newCorners(t)
	c.start(t)
	var pairs []*pair
	for _, f := range traffic.Families {
		for _, listening := range []bool{false, true} {
			l := c.listen(t, f, dialect{})
			p := c.dial(t, f, l, dialect{})
			p.accept(t, l)
			p.goOn(t)
			pairs = append(pairs, p)
			if !listening {
				await.Must(t, l.Close())
			}
		}
	}
	c.p.Expect(0, "detach", "--stop")
	resets := func(p *pair) topology.Filter {
		return topology.All(p.segments, topology.Flags(topology.RST, topology.RST))
	}
	for _, p := range pairs {
		vanish(t, p.server)
		wires := wire.Tap(t, c.Server)
		await.Must1[int](t)(p.client.Write([]byte("are you there")))
		wait(t, wires.Eth0, resets(p))
		if err := read(t, p.client, await.SilenceTime); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("without replypath: %v", err)
		}
		wires.WantEth0("without replypath", resets(p))
	}
	// The client sends again and again: maybe before the start, or as soon as programs
	// are attached, which is before they are said to be.
	eth1 := wire.Capture(t, c.Server.Eth1.Peer())
	c.p.Start()
	eth0 := wire.Capture(t, c.Server.Eth0.Peer())
	for _, p := range pairs {
		if err := read(t, p.client, await.AnswerTime); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("with replypath: %v", err)
		}
		left := topology.All(resets(p), topology.Going(topology.Received))
		if right, wrong := eth1.Count(left), eth0.Count(left); right == 0 || wrong > 0 {
			t.Errorf("%d resets left by eth1, %d by eth0", right, wrong)
		}
	}
	wantNoFlows(t, c.p)
}

// wantNoFlows wants the flow table to show nothing: what has no socket is no flow.
func wantNoFlows(t *testing.T, p *product.Product) {
	t.Helper()
	await.Same(t, "flows", []product.Flow{}, p.Flows())
}

// strayAt sends a segment that belongs to nothing to the server, by the wrong NIC.
func (c bed) strayAt(t *testing.T, injector *traffic.Injector, client, server netip.AddrPort) {
	t.Helper()
	injector.Send(segmentFrame(c.Server.Eth0.Peer().MAC, c.Server.Eth0.MAC, client.Addr(), server.Addr(), &layers.TCP{
		SrcPort: layers.TCPPort(client.Port()), DstPort: layers.TCPPort(server.Port()), Seq: 1000, Ack: 2000, ACK: true, Window: 1000,
	})...)
}

// strayFlood has far more segments come in by the wrong NIC that belong to nothing than there is room for:
// connections that clients open meanwhile by eth1 are answered there, and those that are open go on.
func (c bed) strayFlood(t *testing.T, f topology.Family) {
	injector, l := traffic.NewInjector(t, c.Server.Eth0.Peer()), c.listen(t, f, dialect{})
	before := c.dial(t, f, l, dialect{})
	before.accept(t, l)
	exits := wire.TapAll(t, c.Server.Eth1)
	for round := range uint16(20) {
		for n := range uint16(250) {
			c.strayAt(t, injector, netip.AddrPortFrom(c.ClientEth0.Address(f), 1+round*250+n),
				netip.AddrPortFrom(c.Server.Eth1.Address(f), closedPort))
		}
		p := c.dial(t, f, l, dialect{})
		p.accept(t, l)
		p.goOn(t)
		await.Must(t, p.client.Close())
	}
	before.goOn(t)
	// The routers would drop what leaves by eth0: these connections show it themselves.
	exits.Want("the connections", before.segments, c.Server.Eth1, c.Server.Eth1.Peer().MAC)
}

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
		_ = traffic.Accept(l, func(conn net.Conn) {
			t.Cleanup(func() { conn.Close() })
			_, _ = conn.Write([]byte("banner"))
		})
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
	p, _ := product.StartOn(t, n.Server.Host)
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
