// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// resolverPort is where the server's queries go, and what forged datagrams claim to come from.
const resolverPort = 5300

// TestForgedDatagram has somebody send datagrams by eth1 in the name of a resolver, to ports
// on which nothing listens (yet). What the server then asks the resolver from these ports
// leaves by eth0, as the routing table says, and so does all that follows.
func TestForgedDatagram(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	waitForBeginnings(t, n)
	port := uint16(20_000)
	for _, f := range n.Families() {
		for _, s := range []querySocket{{}, {connected: true}, {bound: true}, {connected: true, bound: true}} {
			t.Run(fmt.Sprintf("%s/connected %t/bound %t", f, s.connected, s.bound), func(t *testing.T) {
				port++
				q := newQuery(t, n, f, port)
				q.forge(p)
				q.open(s)
				if s.connected {
					q.wantExplained(p)
				}
				wires := harness.Tap(t, n.Server)
				for range 2 {
					q.ask()
					q.forge(nil) // changes nothing any more
				}
				wires.WantEth0("what the server asks", q.questions())
				if flows := q.flows(p); len(flows) > 0 {
					t.Errorf("a flow is left: %v", flows)
				}
			})
		}
	}
}

// querySocket says whether the server's socket is connected to the resolver, and bound to
// the address that it asks from, and not to the port alone.
type querySocket struct{ connected, bound bool }

// query is a conversation of the server with a resolver beside the client.
type query struct {
	t              *testing.T
	n              *topology.TwoNIC
	server         net.PacketConn
	resolver       net.PacketConn
	self, resolves netip.AddrPort
	connected      bool
}

func newQuery(t *testing.T, n *topology.TwoNIC, f topology.Family, port uint16) *query {
	t.Helper()
	q := &query{
		t: t, n: n,
		self:     netip.AddrPortFrom(n.Server.Eth0.Address(f), port),
		resolves: netip.AddrPortFrom(n.ClientEth0.Address(f), resolverPort),
	}
	q.resolver = harness.Must1[net.PacketConn](t)(n.Client.ListenPacket(t.Context(), "udp", q.resolves.String()))
	t.Cleanup(func() { q.resolver.Close() })
	return q
}

// forge sends a datagram that the resolver did not send, by eth1, and waits until it is
// recorded, as it has to be where p is not nil.
func (q *query) forge(p *harness.Product) {
	q.t.Helper()
	nic := q.n.Server.Eth1
	harness.NewInjector(q.t, nic.Peer()).Send(harness.Datagram{
		FromMAC: nic.Peer().MAC, ToMAC: nic.MAC, From: q.resolves, To: q.self,
	}.Layers()...)
	if p == nil {
		return
	}
	harness.Eventually(q.t, "the forged datagram is recorded", func() error {
		for _, flow := range q.flows(p) {
			if flow.Interface != nil && *flow.Interface == "eth1" {
				return nil
			}
		}
		return fmt.Errorf("no flow of %s to %s", q.resolves, q.self)
	})
}

// open opens the server's socket.
func (q *query) open(s querySocket) {
	q.t.Helper()
	local := q.self
	if !s.bound && q.self.Addr().Is4() {
		local = netip.AddrPortFrom(netip.IPv4Unspecified(), q.self.Port())
	} else if !s.bound {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), q.self.Port())
	}
	if q.connected = s.connected; s.connected {
		conn := harness.Must1[net.Conn](q.t)(q.n.Server.Dial(q.t.Context(), "udp", q.resolves.String(), topology.FromAddress(local)))
		q.server = conn.(*net.UDPConn)
	} else {
		q.server = harness.Must1[net.PacketConn](q.t)(q.n.Server.ListenPacket(q.t.Context(), "udp", local.String()))
	}
	q.t.Cleanup(func() { q.server.Close() })
}

// ask has the server ask and the resolver answer.
func (q *query) ask() {
	q.t.Helper()
	q.say()
	q.answer()
}

// say has the server ask, until the resolver has the question.
func (q *query) say() {
	q.t.Helper()
	var err error
	if q.connected {
		_, err = q.server.(*net.UDPConn).Write([]byte("question"))
	} else {
		_, err = q.server.WriteTo([]byte("question"), net.UDPAddrFromAddrPort(q.resolves))
	}
	harness.Must(q.t, err)
	q.receive(q.resolver, "question")
}

// answer has the resolver answer, until the server has that.
func (q *query) answer() {
	q.t.Helper()
	_, err := q.resolver.WriteTo([]byte("answer"), net.UDPAddrFromAddrPort(q.self))
	harness.Must(q.t, err)
	q.receive(q.server, "answer")
}

// wantExplained wants to be told that what the server sends is no reply.
func (q *query) wantExplained(p *harness.Product) {
	q.t.Helper()
	e := p.Explain("--peer", q.resolves.String(), "--self", q.self.String(), "--protocol", "udp")
	if e.Verdict != "local-origin" {
		q.t.Errorf("explained as %s", e)
	}
}

// receive waits for a text; what was forged comes in between.
func (q *query) receive(at net.PacketConn, text string) {
	q.t.Helper()
	buffer := make([]byte, 100)
	for got := ""; got != text; {
		harness.Must(q.t, at.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
		length, _, err := at.ReadFrom(buffer)
		harness.Must(q.t, err)
		got = string(buffer[:length])
	}
}

func (q *query) questions() topology.Filter {
	return topology.All(topology.UDP, topology.From(q.self.Addr()), topology.FromPort(q.self.Port()), topology.ToPort(resolverPort))
}

func (q *query) flows(p *harness.Product) []harness.Flow {
	q.t.Helper()
	var flows []harness.Flow
	for _, flow := range p.Flows("--protocol", "udp", "--peer", q.resolves.Addr().String()) {
		if flow.SelfPort == q.self.Port() {
			flows = append(flows, flow)
		}
	}
	return flows
}

// TestServerAfterQuestion has a server start between two questions of a client, and a server
// that speaks for itself only once it was asked: all it sends leaves by eth1.
func TestServerAfterQuestion(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	waitForBeginnings(t, n)
	for _, f := range n.Families() {
		e := newEquals(t, n, f, 20_000)
		harness.Must(t, e.server.Close())
		_, err := e.client.WriteTo([]byte("anybody there?"), net.UDPAddrFromAddrPort(e.serverAt))
		harness.Must(t, err)
		harness.Eventually(t, "the question is recorded", func() error {
			if flows := p.Flows("--protocol", "udp", "--peer", e.clientAt.Addr().String()); len(flows) == 0 {
				return errors.New("no flow")
			}
			return nil
		})
		e.server = harness.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), "udp", e.serverAt.String()))
		t.Cleanup(func() { e.server.Close() })
		e.want(true)
	}
}
