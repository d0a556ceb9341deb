// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// What comes in fragments: so many bytes, in so many of them.
const (
	largeDatagram  = 8000
	largeFragments = 6
)

// datagramKinds are what is fragmented where it is large; TCP never is.
var datagramKinds = []traffic.Kind{traffic.UDP, traffic.Ping}

// answersOf matches all that a conversation's server sends to its client without a connection: later
// fragments say no more of what they belong to. SYN-ACKs that got lost are sent again for a minute.
func answersOf(c *traffic.Conversation) topology.Filter {
	return topology.All(topology.From(c.Self.Addr()), topology.To(c.Peer.Addr()), topology.Not(topology.TCP))
}

// loseLarge asks with a large datagram, and wants the answer to leave by eth0 and not to arrive. It returns the
// fragments.
func loseLarge(t *testing.T, n *topology.TwoNIC, c *traffic.Conversation) []*topology.Frame {
	t.Helper()
	return loseLargeOf(t, n.Server, c, answersOf(c))
}

// loseLargeOf is that for what leaves a server.
func loseLargeOf(t *testing.T, server *topology.Server, c *traffic.Conversation, left topology.Filter) []*topology.Frame {
	t.Helper()
	wires := wire.Tap(t, server)
	ctx, cancel := context.WithCancel(await.Within(t, await.AnswerTime))
	defer cancel()
	asked := make(chan error, 1)
	go func() { asked <- c.AskFor(ctx, largeDatagram) }()
	if _, err := wires.Eth0.WaitCount(ctx, largeFragments, left); err != nil {
		t.Errorf("%s: %v", c, err)
	}
	defer time.AfterFunc(await.SilenceTime, cancel).Stop()
	if err := <-asked; err == nil {
		t.Errorf("%s was answered", c)
	}
	return wires.WantEth0(c.String(), left)
}

// TestFragments asks with datagrams that come in fragments, and whose answers leave
// in fragments: all by the NIC that was asked, byte by byte as they were; without
// replypath, and in mode observe, by the routed one. Each of them is counted.
func TestFragments(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	each := func(run func(*traffic.Conversation)) {
		for _, f := range traffic.Families {
			for _, kind := range datagramKinds {
				run(traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
			}
		}
	}
	each(func(c *traffic.Conversation) { loseLarge(t, n, c) })

	p := product.On(t, n.Server.Host)
	p.Start("--observe")
	each(func(c *traffic.Conversation) {
		before := countedBy(p)
		wantCounted(t, p, before, loseLarge(t, n, c), false)
	})

	p.Expect(0, "mode", "enforce")
	each(func(c *traffic.Conversation) {
		before, ofProtocol := countedBy(p), correctedOf(p, c)
		wires := wire.Tap(t, n.Server)
		for range 3 {
			await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), largeDatagram))
		}
		frames := wires.WantEth1(c.String(), answersOf(c))
		if len(frames) != 3*largeFragments {
			t.Errorf("%s: %s", c, wire.Describe(frames))
		}
		wantCounted(t, p, before, frames, true)
		if counted := correctedOf(p, c) - ofProtocol; int(counted) != len(frames) {
			t.Errorf("%s: %v fragments of %d were counted for its protocol", c, counted, len(frames))
		}
	})
	for _, f := range traffic.Families {
		t.Run("out of order/"+f.String(), func(t *testing.T) { testOutOfOrder(t, n, p.In(t), f) })
	}
	wantNoMoves(t, p)
}

// correctedOf counts the packets of a conversation's protocol and family that were moved.
func correctedOf(p *product.Product, c *traffic.Conversation) float64 {
	family := topology.FamilyOf(c.Self.Addr()).String()
	return p.Metrics().Sum("replypath_corrected_packets_total", "family="+family, "protocol="+c.Protocol())
}

// TestFragmentsOfTheHost has the server ask with datagrams that leave in fragments, from either of its addresses:
// they go where the routing table says, also when their answers come in by eth1.
func TestFragmentsOfTheHost(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := product.On(t, n.Server.Host)
	p.Start("--config", product.WriteConfig(t, "related: false\n"))
	p.WaitGrace()
	for _, f := range traffic.Families {
		traffic.Serve(t, n.Client, n.ClientEth0.Address(f))
		for _, from := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
			for _, kind := range datagramKinds {
				c := traffic.NewConversation(t, kind, from, n.ClientEth0.Address(f))
				wires := wire.Tap(t, n.Server)
				for range 3 {
					await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), largeDatagram))
				}
				questions := topology.All(topology.From(c.Peer.Addr()), topology.To(c.Self.Addr()))
				if frames := wires.WantEth0(c.String(), questions); len(frames) != 3*largeFragments {
					t.Errorf("%s: %s", c, wire.Describe(frames))
				}
			}
		}
	}
	if got := countedBy(p); got != (counted{}) {
		t.Errorf("counted %+v", got)
	}
}

// piece is a part of a datagram, as a fragment brings it.
type piece struct {
	from, to int
	altered  bool // its bytes are others than the datagram's
}

// testOutOfOrder has the fragments of questions come in in every order, and twice: the server answers each by eth1.
// Fragments that overlap are answered by nobody, and disturb no flow.
func testOutOfOrder(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	const size = 1208 // of the datagram, with its header
	a, b, c := piece{0, 408, false}, piece{408, 808, false}, piece{808, size, false}
	q := newPieces(t, n, f, size)
	going := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f))
	traffic.Ask(t, going)
	for _, order := range [][]piece{
		{a, b, c}, {a, c, b}, {b, a, c}, {b, c, a}, {c, a, b}, {c, b, a}, {c, b, b, c, a},
	} {
		wires := wire.Tap(t, n.Server)
		q.send(order)
		q.wantAnswer(order)
		wires.WantEth1(fmt.Sprintf("the answer to %v", order), q.answers)
	}
	before := ways(p)
	wires := wire.Tap(t, n.Server)
	for _, overlapping := range [][]piece{
		{a, {400, 808, true}, b, c},
		{a, {0, 408, true}, b, c},
		{{0, 408, true}, {200, 808, false}, c},
		{c, {0, 816, true}, a},
		{a, {0, 8, true}, b, c},
	} {
		q.send(overlapping)
		q.send([]piece{a, b, c})
		q.wantAnswer(overlapping)
	}
	traffic.Ask(t, going)
	wires.WantEth1("answers after fragments that overlap", topology.All(topology.UDP, topology.From(going.Self.Addr())))
	for name, way := range ways(p) {
		if was, known := before[name]; known && was != way {
			t.Errorf("%s: %s, then %s", name, was, way)
		}
	}
}

// pieces sends questions in fragments to the server's eth1, as if they came from the
// client, which has a socket for the answers.
type pieces struct {
	t        *testing.T
	nic      *topology.Interface // the server's
	client   net.PacketConn
	self     netip.AddrPort
	datagram []byte
	injector *traffic.Injector
	id       uint16
	answers  topology.Filter
}

func newPieces(t *testing.T, n *topology.TwoNIC, f topology.Family, size int) *pieces {
	t.Helper()
	q := &pieces{t: t, nic: n.Server.Eth1, self: netip.AddrPortFrom(n.Server.Eth1.Address(f), traffic.EchoPort)}
	q.client = await.Must1[net.PacketConn](t)(n.Client.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(n.ClientEth0.Address(f), 0).String()))
	t.Cleanup(func() { q.client.Close() })
	q.injector = traffic.NewInjector(t, n.Server.Eth1.Peer())
	peer := q.client.LocalAddr().(*net.UDPAddr).AddrPort()
	_, ip := ipHeaders(nil, nil, peer.Addr(), q.self.Addr(), layers.IPProtocolUDP)
	udp := udpTo(ip.(gopacket.NetworkLayer), q.self.Port())
	udp.SrcPort = layers.UDPPort(peer.Port())
	payload := bytes.Repeat([]byte("fragment "), size)[:size-8]
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	await.Must(t, gopacket.SerializeLayers(buffer, options, udp, gopacket.Payload(payload)))
	q.datagram = buffer.Bytes()
	q.answers = topology.All(topology.UDP, topology.From(q.self.Addr()), topology.ToPort(peer.Port()))
	return q
}

// send sends the datagram in these pieces, with an identification of its own.
func (q *pieces) send(order []piece) {
	q.t.Helper()
	q.id++
	from := q.client.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	for _, part := range order {
		data := bytes.Clone(q.datagram[part.from:part.to])
		for i := range data {
			if part.altered && (part.from+i >= 8 || i == 3) { // not the ports but one bit
				data[i] ^= 0x10
			}
		}
		ethernet, ip := ipHeaders(q.nic.Peer().MAC, q.nic.MAC, from, q.self.Addr(), 0)
		parts := fragmentOf(ip.(gopacket.NetworkLayer), layers.IPProtocolUDP, q.id, part.from, part.to < len(q.datagram), gopacket.Payload(data))
		q.injector.Send(append([]gopacket.SerializableLayer{ethernet}, parts...)...)
	}
}

// wantAnswer wants one answer at the client, which is the datagram itself.
func (q *pieces) wantAnswer(order []piece) {
	q.t.Helper()
	await.Must(q.t, q.client.SetReadDeadline(time.Now().Add(await.AnswerTime)))
	answer := make([]byte, 1<<16)
	n, _, err := q.client.ReadFrom(answer)
	if err != nil || !bytes.Equal(answer[:n], q.datagram[8:]) {
		q.t.Errorf("%v: %d bytes came back of %d, %v", order, n, len(q.datagram)-8, err)
	}
}
