// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

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

	p, _ := product.StartOn(t, n.Server.Host, "--observe")
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
		await.Same(t, c.String()+": fragments that were counted for its protocol", float64(len(frames)), correctedOf(p, c)-ofProtocol)
	})
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
	p, _ := product.StartOn(t, n.Server.Host, "--config", product.WriteConfig(t, "related: false\n"))
	p.WaitGrace()
	for _, f := range traffic.Families {
		traffic.Serve(t, n.Client, n.ClientEth0.Address(f))
		for _, from := range n.Server.NICs() {
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

// tooBig matches what a router says about a packet that is too large.
func tooBig(f *topology.Frame) bool {
	return topology.Protocol(layers.IPProtocolICMPv4)(f) && f.ICMPType == layers.ICMPv4TypeDestinationUnreachable && f.ICMPCode == layers.ICMPv4CodeFragmentationNeeded ||
		topology.Protocol(layers.IPProtocolICMPv6)(f) && f.ICMPType == layers.ICMPv6TypePacketTooBig
}

// narrower is a network in which the way by eth1 gets narrower behind the router.
type narrower struct{ *topology.TwoNIC }

// set sets the MTU of the cable behind the router.
func (n narrower) set(t *testing.T, mtu int) {
	t.Helper()
	for host, name := range map[*topology.Host]string{n.Replication.Host: "core", n.Core.Host: "replication"} {
		await.Must(t, await.Must1[*topology.Interface](t)(host.Interface(name)).SetMTU(mtu))
	}
}

// TestPathMTU has the router of the corrected way tell the server how large its packets may be, twice: that reaches the
// right socket, and moves nothing.
func TestPathMTU(t *testing.T) {
	n := narrower{traffic.NewTwoNIC(t, topology.TwoNICOptions{
		Policy: topology.StrictSource, Offloads: topology.Offloads{NoSegmentation: true},
	})}
	for _, f := range n.Families() {
		// By UDP: the server would repeat its SYN-ACK meanwhile.
		wire.WantLost(t, n.Server, traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(f)))
	}
	p, _ := product.StartOn(t, n.Server.Host)
	for _, f := range n.Families() {
		for name, test := range map[string]func(narrower, *testing.T, topology.Family){
			"tcp": narrower.stream, "udp": narrower.datagrams,
		} {
			n.set(t, 1400)
			forgetSizes(t, n.Server.Host) // what it learns from one would serve the next
			forgetSizes(t, n.Client)
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				wires, word := wire.Tap(t, n.Server), wire.Capture(t, n.Server.Eth1)
				test(n, t, f)
				wires.WantEth1("the answers", topology.All(topology.Not(tooBig), topology.From(n.Server.Eth1.Address(f))))
				router := topology.All(tooBig, topology.From(n.Server.Eth1.Gateway(f)))
				if all, its := word.Count(tooBig), word.Count(router); its < 2 || its != all {
					t.Errorf("%d words came from the router, and %d of others", its, all-its)
				}
			})
		}
	}
	metrics := p.Metrics()
	await.Same(t, "packets that were not corrected", 0, metrics.Sum("replypath_uncorrected_packets_total"))
	wantNoMoves(t, p)
}

func (n narrower) stream(t *testing.T, f topology.Family) {
	conn := traffic.DialTransfer(t, n.Client, traffic.ServeTransfers(t, n.Server.Host, n.Server.Eth1.Address(f)))
	defer conn.Close()
	for _, mtu := range []int{1400, 1300} {
		n.set(t, mtu)
		traffic.TransferBothWays(t, conn, 200_000)
	}
}

// datagrams has the errors end up at a connected socket.
func (n narrower) datagrams(t *testing.T, f topology.Family) {
	asked := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
	asked.send(t, 1500)
	asked.wantTooLarge(t)
	n.set(t, 1300)
	asked.send(t, 1400)
	asked.wantTooLarge(t)
	asked.send(t, 1300)
	asked.wantArrival(t, 1300)
}

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
	if f == topology.IPv4 {
		setOption(t, d.server, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, way)
	} else {
		setOption(t, d.server, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, way)
	}
}
