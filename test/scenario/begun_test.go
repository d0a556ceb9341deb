// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	testproduct "replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// talker is an end of a conversation.
type talker interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// unconnected talks to one peer by a socket that is not connected to it, of which
// the kernel does not tell who spoke first.
type unconnected struct {
	net.PacketConn
	peer netip.AddrPort
}

// Write sends a datagram.
func (u unconnected) Write(p []byte) (int, error) {
	return u.WriteTo(p, net.UDPAddrFromAddrPort(u.peer))
}

// Read receives a datagram.
func (u unconnected) Read(p []byte) (int, error) {
	n, _, err := u.ReadFrom(p)
	return n, err
}

// talk sends something and wants it to arrive. What somebody else has sent in between is passed over.
func talk(t *testing.T, from, to talker) {
	t.Helper()
	deadline := time.Now().Add(await.AnswerTime)
	await.Must(t, errors.Join(from.SetDeadline(deadline), to.SetDeadline(deadline)))
	const message = "something"
	_, err := from.Write([]byte(message))
	await.Must(t, err)
	buffer := make([]byte, 100)
	for got := ""; got != message; {
		n, err := to.Read(buffer)
		await.Must(t, err)
		got = string(buffer[:n])
	}
}

// equals are two peers that send each other datagrams. The client reaches the server by eth1; the server's routing table
// leads to the client by eth0. Where their ports are the same, nothing in a datagram tells a question from an answer.
type equals struct {
	t                  *testing.T
	n                  *topology.TwoNIC
	client, server     talker
	clientAt, serverAt netip.AddrPort
}

// serverSocket says whether the server's socket is connected to the client, and whether it is bound to a port alone.
type serverSocket struct{ connected, wildcard bool }

// newEquals has both speak from one port.
func newEquals(t *testing.T, n *topology.TwoNIC, f topology.Family, port uint16) *equals {
	t.Helper()
	client, server := netip.AddrPortFrom(n.ClientEth0.Address(f), port), netip.AddrPortFrom(n.Server.Eth1.Address(f), port)
	p := newClientOf(t, n, client, server)
	p.serve(serverSocket{})
	return p
}

// newClientOf opens no socket of the server's yet.
func newClientOf(t *testing.T, n *topology.TwoNIC, client, server netip.AddrPort) *equals {
	t.Helper()
	socket := await.Must1[net.PacketConn](t)(n.Client.ListenPacket(t.Context(), "udp", client.String()))
	t.Cleanup(func() { socket.Close() })
	return &equals{t: t, n: n, client: unconnected{socket, server}, clientAt: client, serverAt: server}
}

// serve opens a socket of the server's, beside those that it has at the same address.
func (p *equals) serve(s serverSocket) {
	p.t.Helper()
	at := p.serverAt
	if s.wildcard && at.Addr().Is4() {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	} else if s.wildcard {
		at = netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
	}
	if s.connected {
		p.server = await.Must1[net.Conn](p.t)(p.n.Server.Dial(p.t.Context(), "udp", p.clientAt.String(),
			topology.FromAddress(at), topology.ReuseAddress()))
	} else {
		socket := await.Must1[net.PacketConn](p.t)(p.n.Server.ListenPacket(p.t.Context(), "udp", at.String(),
			topology.ReuseAddress()))
		p.server = unconnected{socket, p.clientAt}
	}
	p.t.Cleanup(func() { p.server.Close() })
}

func (p *equals) clientSpeaks() { p.t.Helper(); talk(p.t, p.client, p.server) }
func (p *equals) serverSpeaks() { p.t.Helper(); talk(p.t, p.server, p.client) }

// talk has both speak a few times, each also twice in a row.
func (p *equals) talk() {
	p.t.Helper()
	for range 2 {
		p.clientSpeaks()
		p.serverSpeaks()
		p.serverSpeaks()
		p.clientSpeaks()
	}
}

// want has both speak, and wants all that the server sends by eth1, or by eth0.
func (p *equals) want(eth1 bool) {
	p.t.Helper()
	wires := wire.Tap(p.t, p.n.Server)
	p.talk()
	wires.Want(eth1, "what the server sends", p.datagrams())
}

// datagrams matches what the server sends.
func (p *equals) datagrams() topology.Filter {
	return topology.All(topology.UDP, topology.From(p.serverAt.Addr()),
		topology.FromPort(p.serverAt.Port()), topology.ToPort(p.clientAt.Port()))
}

// forge has somebody send a datagram in the client's name, by eth1.
func (p *equals) forge() {
	p.t.Helper()
	p.forgeBy(p.n.Server.Eth1, p.n.Server.Eth1.Peer().MAC)
}

func (p *equals) forgeBy(nic *topology.Interface, mac net.HardwareAddr) {
	p.t.Helper()
	traffic.NewInjector(p.t, nic.Peer()).Send(traffic.Datagram{
		FromMAC: mac, ToMAC: nic.MAC, From: p.clientAt, To: p.serverAt,
	}.Layers()...)
}

// flows are what is recorded of these two.
func (p *equals) flows(product *testproduct.Product) (flows []testproduct.Flow) {
	p.t.Helper()
	for _, flow := range product.Flows("--protocol", "udp", "--peer", p.clientAt.Addr().String()) {
		if flow.PeerPort == p.clientAt.Port() && flow.Self == p.serverAt.Addr().String() && flow.SelfPort == p.serverAt.Port() {
			flows = append(flows, flow)
		}
	}
	return flows
}

// waitRecorded waits until a flow by eth1 is recorded.
func (p *equals) waitRecorded(product *testproduct.Product) {
	p.t.Helper()
	await.Eventually(p.t, "the datagram is recorded", func() error {
		if flows := p.flows(product); len(flows) != 1 || testproduct.OrEmpty(flows[0].Interface) != "eth1" {
			return errors.New("no flow by eth1")
		}
		return nil
	})
}

// begunServer is one with small tables, for which it is known who begins.
type begunServer struct {
	bed
	port uint16 // the last that was used: nothing is recorded of those after it
}

// run runs a subtest before which the server has begun nothing.
func (s *begunServer) run(t *testing.T, name string, test func(*testing.T, *begunServer)) {
	t.Run(name, func(t *testing.T) {
		here := &begunServer{s.bed, s.port}
		here.p = s.p.In(t)
		here.p.ForgetBeginnings()
		defer func() { s.port = here.port }()
		test(t, here)
	})
}

// equals are two that have spoken to each other never before.
func (s *begunServer) equals(t *testing.T, f topology.Family) *equals {
	t.Helper()
	s.port++
	return newEquals(t, s.TwoNIC, f, s.port)
}

// symmetricPorts are those of protocols that use one port on both sides.
var symmetricPorts = map[string]uint16{"vxlan": 4789, "ike": 500, "corosync": 5405, "wireguard": 51820}

// TestBegun has a server and a client speak to each other, one of them first. That decides which way the server sends,
// whatever happens meanwhile, where nothing is related.
func TestBegun(t *testing.T) {
	s := &begunServer{newBed(t, topology.TwoNICOptions{Policy: topology.AnySource}), 12_000}
	start := func() *testproduct.Daemon {
		return s.p.Start("--config", testproduct.WriteConfig(t, testproduct.SmallTables+"related: false\n"))
	}
	d := start()
	s.p.WaitGrace()
	s.run(t, "closed doors", testClosedDoors)
	s.run(t, "tuple used again", testTupleReused)
	s.run(t, "connected server", testConnectedServer)
	s.run(t, "only the server speaks", testOnlyServerSpeaks)
	s.run(t, "forged datagram", testForgedDatagram)
	s.run(t, "question before the server", testServerAfterQuestion)
	s.run(t, "long silence", testLongSilence)
	t.Run("equal ports", func(t *testing.T) {
		pairs := make(map[*equals]bool)
		for _, f := range traffic.Families {
			for _, port := range symmetricPorts {
				first := newEquals(t, s.TwoNIC, f, port)
				first.clientSpeaks()
				// Ports that no protocol has: the pairs may not share a tuple.
				second := newEquals(t, s.TwoNIC, f, port+10_000)
				second.serverSpeaks()
				pairs[first], pairs[second] = true, false
			}
		}
		wires := wire.Tap(t, s.Server)
		talk := func() {
			for pair := range pairs {
				pair.talk()
			}
		}
		talk()
		for range 2 {
			d.Kill()
			talk()
			d = start()
			talk()
		}
		for pair, eth1 := range pairs {
			wires.Want(eth1, "what the server sends", pair.datagrams())
		}
	})
}

// testConnectedServer has a server with a socket for each client, as those of DTLS and QUIC have, be quiet for longer than
// a flow lives, and the client go on.
func testConnectedServer(t *testing.T, s *begunServer) {
	for _, f := range traffic.Families {
		for _, clientBegan := range []bool{true, false} {
			pair := s.equals(t, f)
			if clientBegan {
				pair.clientSpeaks()
			}
			pair.serve(serverSocket{connected: true})
			if !clientBegan {
				pair.serverSpeaks()
			}
			for range 2 {
				pair.want(clientBegan)
				s.p.Age(200 * time.Second)
			}
			pair.want(clientBegan)
		}
	}
}

// testOnlyServerSpeaks has a client ask once, and then the server alone speak, for longer than a silent flow lives: what it
// sends stays at eth1, and so do the answers to the client's next questions.
func testOnlyServerSpeaks(t *testing.T, s *begunServer) {
	for _, f := range traffic.Families {
		pair := s.equals(t, f)
		pair.clientSpeaks()
		wires := wire.Tap(t, s.Server)
		for range 4 {
			pair.serverSpeaks()
			s.p.Age(100 * time.Second)
		}
		pair.talk()
		wires.WantEth1("what the server sends", pair.datagrams())
	}
}

// testForgedDatagram has somebody send datagrams by eth1 in the name of a resolver, to ports on which nothing listens
// (yet). What the server then asks the resolver from these ports leaves as routed, and so does all that follows.
func testForgedDatagram(t *testing.T, s *begunServer) {
	for _, f := range traffic.Families {
		for _, socket := range []serverSocket{{}, {connected: true}, {wildcard: true}, {connected: true, wildcard: true}} {
			s.port++
			resolver := netip.AddrPortFrom(s.ClientEth0.Address(f), s.port)
			q := newClientOf(t, s.TwoNIC, resolver, netip.AddrPortFrom(s.Server.Eth0.Address(f), s.port))
			q.forge()
			q.waitRecorded(s.p)
			q.serve(socket)
			if socket.connected {
				e := s.p.Explain("--peer", q.clientAt.String(), "--self", q.serverAt.String(), "--protocol", "udp")
				wantVerdict(t, e, "local-origin", "")
			}
			wires := wire.Tap(t, s.Server)
			for range 2 {
				q.serverSpeaks()
				q.clientSpeaks()
				q.forge() // changes nothing any more
			}
			wires.WantEth0("what the server asks", q.datagrams())
			if flows := q.flows(s.p); len(flows) > 0 {
				t.Errorf("%s, %+v: a flow is left: %v", f, socket, flows)
			}
		}
	}
}

// testServerAfterQuestion has a server start between two questions of a client.
func testServerAfterQuestion(t *testing.T, s *begunServer) {
	for _, f := range traffic.Families {
		pair := s.equals(t, f)
		await.Must(t, pair.server.Close())
		await.Must1[int](t)(pair.client.Write([]byte("anybody there?")))
		pair.waitRecorded(s.p)
		pair.serve(serverSocket{})
		pair.want(true)
	}
}

// testLongSilence has both be silent for longer than anything is known of who spoke first: who speaks after that decides.
func testLongSilence(t *testing.T, s *begunServer) {
	var pairs []*equals
	for _, f := range traffic.Families {
		pairs = append(pairs, s.equals(t, f))
	}
	for _, outward := range []bool{true, false, true, true, false, false, true} {
		s.p.Age(2 * time.Hour)
		for _, pair := range pairs {
			wires := wire.Tap(t, s.Server)
			if outward {
				pair.serverSpeaks()
			}
			pair.talk()
			wires.Want(!outward, "what the server sends", pair.datagrams())
		}
	}
}
