// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
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

// vanish takes a connection away without a word to the other end, as a reboot does.
func vanish(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw := await.Must1[syscall.RawConn](t)(conn.SyscallConn())
	var err error
	await.Must(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	}))
	await.Must(t, err)
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
	if flows := p.Flows(); len(flows) != 0 {
		t.Errorf("flows: %v", flows)
	}
}

// strayAt sends a segment that belongs to nothing to the server, by the wrong NIC.
func (c corners) strayAt(t *testing.T, injector *traffic.Injector, client, server netip.AddrPort) {
	t.Helper()
	injector.Send(segmentFrame(c.Server.Eth0.Peer().MAC, c.Server.Eth0.MAC, client.Addr(), server.Addr(), &layers.TCP{
		SrcPort: layers.TCPPort(client.Port()), DstPort: layers.TCPPort(server.Port()), Seq: 1000, Ack: 2000, ACK: true, Window: 1000,
	})...)
}

// strayIsNoFlow has somebody forge a segment by the wrong NIC, for a tuple that a client then opens a connection
// with, by eth1: the whole connection is answered there.
func (c corners) strayIsNoFlow(t *testing.T, f topology.Family) {
	client := netip.AddrPortFrom(c.ClientEth0.Address(f), 9002)
	server := netip.AddrPortFrom(c.Server.Eth1.Address(f), 9001)
	segments := topology.All(topology.TCP, topology.From(server.Addr()), topology.FromPort(server.Port()))
	before := wire.TapAll(t, c.eth1.nics...)
	c.strayAt(t, traffic.NewInjector(t, c.Server.Eth0.Peer()), client, server)
	wait(t, before.At(c.Server.Eth0), topology.All(segments, topology.Flags(topology.RST, topology.RST)))
	exits := wire.TapAll(t, c.eth1.nics...)
	a, b := open(t, c.Client, c.Server.Host, client, server)
	for range 3 {
		talk(t, a, b)
		talk(t, b, a)
	}
	endings["reset"](t, a, b)
	c.eth1.want(exits, "the connection", segments)
}

// strayFlood has far more segments come in by the wrong NIC that belong to nothing than there is room for:
// connections that clients open meanwhile by eth1 are answered there, and those that are open go on.
func (c corners) strayFlood(t *testing.T, f topology.Family) {
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
