// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestHostOpened has the server itself ask the client from eth1's address. The routing table sends that by eth0, and
// the answers come in by eth1: nothing of it may be moved, before and after the client has asked something as well.
func TestHostOpened(t *testing.T) {
	n, p := server.NewExact(t)
	p.Start("--config", product.WriteConfig(t, "related: false\n"))
	p.WaitGrace() // for a moment after the first start nothing can be known of who spoke first
	traffic.ServeNICs(t, n.ClientEth0)
	for _, clientAsksToo := range []bool{false, true} {
		for _, f := range n.Families() {
			wantUnconnected(t, n, f)
			for _, kind := range traffic.Kinds {
				if clientAsksToo {
					wire.WantBy(t, n.Server, conversation(t, n, kind, f), true)
				}
				wires := wire.Tap(t, n.Server)
				c := traffic.NewConversation(t, kind, n.Server.Eth1, n.ClientEth0.Address(f))
				for range 5 {
					traffic.Ask(t, c)
				}
				wires.WantEth0("host-opened "+c.String(), c.Questions())
				if wires.Eth1.Count(topology.All(c.Answers(), topology.Going(topology.Sent))) == 0 {
					t.Errorf("%s: no answer came in by eth1", c)
				}
			}
		}
		if corrected := p.Metrics().Sum("replypath_corrected_packets_total"); !clientAsksToo && corrected != 0 {
			t.Errorf("%v packets of what the host opened were corrected", corrected)
		}
		if flows := p.Flows(); !clientAsksToo && len(flows) > 0 {
			t.Errorf("what the host opened became flows: %v", flows)
		}
	}
}

// wantUnconnected asks a few times by new sockets of the server that are not connected, of which the kernel does not tell
// who spoke first, and wants all of it by eth0.
func wantUnconnected(t *testing.T, n *topology.TwoNIC, f topology.Family) {
	t.Helper()
	own := netip.AddrPortFrom(n.Server.Eth1.Address(f), 0)
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.ClientEth0.Address(f), traffic.EchoPort))
	for range 5 {
		wires := wire.Tap(t, n.Server)
		conn := await.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), "udp", own.String()))
		await.Must(t, conn.SetDeadline(time.Now().Add(await.AnswerTime)))
		for range 5 {
			await.Must1[int](t)(conn.WriteTo([]byte("question"), to))
			_, _, err := conn.ReadFrom(make([]byte, 100))
			await.Must(t, err)
		}
		port := addressOf(conn.LocalAddr()).Port()
		await.Must(t, conn.Close())
		wires.WantEth0("host-opened, unconnected", topology.All(topology.UDP, topology.From(own.Addr()), topology.FromPort(port)))
	}
}

// TestHostOpenedBefore is TestHostOpened with conversations that are older than the start and go on meanwhile.
func TestHostOpenedBefore(t *testing.T) {
	n, p := server.NewExact(t)
	wires := wire.Tap(t, n.Server)
	talks := make(map[*traffic.Conversation]*traffic.Talk)
	for _, f := range n.Families() {
		traffic.Serve(t, n.Client, n.ClientEth0.Address(f))
		for _, kind := range traffic.Kinds {
			c := traffic.NewConversation(t, kind, n.Server.Eth1, n.ClientEth0.Address(f))
			traffic.Ask(t, c)
			talks[c] = c.Keep(t)
		}
	}
	for range 2 {
		p.Start("--config", product.WriteConfig(t, "related: false\n")).Kill()
		for c := range talks {
			seen := wires.Eth0.Count(c.Questions())
			_, err := wires.Eth0.WaitCount(await.Within(t, await.AnswerTime), seen+server.Live, c.Questions())
			if err != nil {
				t.Errorf("%s does not go on by eth0: %v", c, err)
			}
		}
	}
	for c, talk := range talks {
		talk.Stop()
		wires.WantEth0("host-opened "+c.String(), c.Questions())
	}
	if flows := p.Flows(); len(flows) > 0 {
		t.Errorf("what the host opened became flows: %v", flows)
	}
}

// strangePort is that of the client in frames that are made by hand.
const strangePort = 999

// plainDatagram is a datagram from the client to the server's eth1, as its router hands it over.
func plainDatagram(n *topology.TwoNIC, f topology.Family) traffic.Datagram {
	return traffic.Datagram{
		FromMAC: n.Server.Eth1.Peer().MAC, ToMAC: n.Server.Eth1.MAC,
		From: netip.AddrPortFrom(n.ClientEth0.Address(f), strangePort),
		To:   netip.AddrPortFrom(n.Server.Eth1.Address(f), traffic.EchoPort),
	}
}

// TestNeighbours has both ends resolve each other on eth1 while it is managed: answers leave by the interface that they
// were asked on, as the kernel sends them.
func TestNeighbours(t *testing.T) {
	n, p := server.NewExact(t)
	p.Start()
	wires := wire.Tap(t, n.Server)
	for _, f := range n.Families() {
		await.Must(t, n.Server.Eth1.Peer().Resolve(await.Within(t, await.AnswerTime), n.Server.Eth1.Address(f)))
		await.Must(t, n.Server.Eth1.Resolve(await.Within(t, await.AnswerTime), n.Server.Eth1.Gateway(f)))
	}
	eth0, _ := wires.Left(topology.Any)
	for _, frame := range eth0 {
		if !bytes.Equal(frame.SourceMAC, n.Server.Eth0.MAC) {
			t.Errorf("by eth0 left %s", frame)
		}
	}
	// On-link: the router itself asks, and is answered directly.
	for _, f := range n.Families() {
		c := traffic.NewConversation(t, traffic.TCP, n.Server.Eth1.Peer(), n.Server.Eth1.Address(f))
		traffic.Ask(t, c)
		wires.WantEth1(c.String(), c.Answers())
	}
	await.Same(t, "asymmetric, of what the kernel sent right anyway", 0, p.Metrics().Sum("replypath_asymmetric_packets_total"))
}

// TestBoundDevice has a socket that is bound to eth0 (SO_BINDTODEVICE) send replies of a flow that came in by eth1:
// they stay on the device that the program chose, and are counted.
func TestBoundDevice(t *testing.T) {
	n, p := server.NewExact(t)
	// The peer's way of a connection is moved to eth0 below; that its flow stays at eth1 is the configuration's doing.
	p.Start("--config", product.WriteConfig(t, "follow: pinned\n"))
	for _, f := range n.Families() {
		t.Run(f.String()+"/udp", func(t *testing.T) { testBoundDatagrams(t, n, p.In(t), f) })
		t.Run(f.String()+"/tcp", func(t *testing.T) { testBoundConnection(t, n, p.In(t), f) })
	}
}

// testBoundDatagrams has two sockets at one port. What comes in by eth1 reaches
// only the one that is not bound; both answer it.
func testBoundDatagrams(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	ctx := await.Within(t, await.AnswerTime)
	listen := func(at netip.AddrPort, options ...topology.SocketOption) net.PacketConn {
		options = append(options, topology.ReuseAddress())
		conn := await.Must1[net.PacketConn](t)(n.Server.ListenPacket(ctx, "udp", at.String(), options...))
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	free := listen(netip.AddrPortFrom(n.Server.Eth1.Address(f), 0))
	self := addressOf(free.LocalAddr())
	bound := listen(self, topology.BindToDevice("eth0"))
	client := await.Must1[net.Conn](t)(n.Client.Dial(ctx, "udp", self.String()))
	t.Cleanup(func() { client.Close() })
	answers := topology.All(topology.UDP, topology.From(self.Addr()), topology.FromPort(self.Port()))

	answerFrom := func(conn net.PacketConn) {
		buffer := make([]byte, 100)
		await.Must1[int](t)(client.Write([]byte("question")))
		_, peer, err := free.ReadFrom(buffer)
		await.Must(t, err)
		await.Must1[int](t)(conn.WriteTo([]byte("answer"), peer))
		await.Must1[int](t)(client.Read(buffer))
	}
	wires := wire.Tap(t, n.Server)
	answerFrom(free)
	wires.WantEth1("the answer of the socket that is not bound", answers)
	wantLeftAlone(t, n, p, client, answers, func() { answerFrom(bound) })
}

// testBoundConnection binds the socket of a connection that was accepted by eth1.
// From then on it hears of its peer by eth0 only, so the peer's way is moved there.
func testBoundConnection(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	address := n.Server.Eth1.Address(f)
	wires := wire.Tap(t, n.Server)
	c := traffic.NewPush(t, n.Client, n.Server.Host, address, address)
	wires.WantEth1("what was sent before the socket was bound", c.Segments)
	moveRoute(t, n, f, address)
	raw := await.Must1[syscall.RawConn](t)(c.Server.(syscall.Conn).SyscallConn())
	var err error
	await.Must(t, raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "eth0") }))
	await.Must(t, err)
	wantLeftAlone(t, n, p, c.Client, c.Segments, c.Speak)
	e := p.Explain("--peer", c.Server.RemoteAddr().String(), "--self", c.Server.LocalAddr().String(), "--protocol", "tcp")
	if e.Verdict != "fallback" || product.OrEmpty(e.Reason) != "bound_device" {
		t.Errorf("the way of what the bound socket sends: %s", e)
	}
}

// wantLeftAlone sends, and wants every frame by eth0 and every one of them counted
// with the reason, while the client's flow is still eth1's.
func wantLeftAlone(t *testing.T, n *topology.TwoNIC, p *product.Product, client net.Conn, frames topology.Filter, send func()) {
	t.Helper()
	const messages = 3
	wires, before := wire.Tap(t, n.Server), p.Metrics()
	for range messages {
		send()
	}
	left := wires.WantEth0("what the bound socket sent", frames)
	after := p.Metrics()
	// TCP may send the last one again.
	for eth0, _ := wires.Left(frames); len(eth0) > len(left); eth0, _ = wires.Left(frames) {
		left, after = eth0, p.Metrics()
	}
	if len(left) < messages {
		t.Errorf("%d frames of %d messages: %s", len(left), messages, wire.Describe(left))
	}
	peer, protocol := addressOf(client.LocalAddr()), client.LocalAddr().Network()
	pair := []string{"from_interface=eth0", "to_interface=eth1", "family=" + topology.FamilyOf(peer.Addr()).String(), "protocol=" + protocol}
	for _, want := range []struct {
		name   string
		labels []string
		count  int
	}{
		{"replypath_uncorrected_packets_total", append(pair, "reason=bound_device"), len(left)},
		{"replypath_uncorrected_packets_total", nil, len(left)}, // with no other reason
		{"replypath_asymmetric_packets_total", pair, len(left)},
		{"replypath_corrected_packets_total", nil, 0},
	} {
		await.Same(t, want.name+fmt.Sprint(want.labels), float64(want.count), after.Sum(want.name, want.labels...)-before.Sum(want.name, want.labels...))
	}
	flows := p.Flows("--protocol", protocol, "--peer", peer.Addr().String())
	if len(flows) != 1 || flows[0].PeerPort != peer.Port() || product.OrEmpty(flows[0].Interface) != "eth1" {
		t.Errorf("the flow is not eth1's: %+v", flows)
	}
}

func addressOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }
