// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// vanish takes a connection away without a word to the other end, as a reboot does.
func vanish(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw := harness.Must1[syscall.RawConn](t)(conn.SyscallConn())
	var err error
	harness.Must(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	}))
	harness.Must(t, err)
	harness.Must(t, conn.Close())
}

// read waits for what a connection has to say, for so long.
func read(t *testing.T, conn net.Conn, patience time.Duration) error {
	t.Helper()
	harness.Must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, err := conn.Read(make([]byte, 100))
	return err
}

// TestReboot has the client go on with connections that a server knows nothing of any
// more, replypath included: the resets leave by eth1, and end them. Without replypath
// they are lost, and the client goes on and on.
func TestReboot(t *testing.T) {
	testReboot(t, false)
}

// TestRebootListening is TestReboot with a service that listens again.
func TestRebootListening(t *testing.T) { testReboot(t, true) }

// testReboot is TestReboot with or without the service listening again.
func testReboot(t *testing.T, listening bool) {
	c := newCorners(t)
	conns := make(map[topology.Family]*pair)
	for _, f := range harness.Families {
		l := c.listen(t, f, dialect{})
		conns[f] = c.dial(t, f, l, dialect{})
		conns[f].accept(t, l)
		conns[f].goOn(t)
		if !listening {
			harness.Must(t, l.Close())
		}
	}
	c.p.Expect(0, "detach", "--stop")
	resets := func(f topology.Family) topology.Filter {
		return topology.All(conns[f].segments, topology.Flags(topology.RST, topology.RST))
	}
	for _, f := range harness.Families {
		vanish(t, conns[f].server)
		wires := harness.Tap(t, c.Server)
		harness.Must1[int](t)(conns[f].client.Write([]byte("are you there")))
		wait(t, wires.Eth0, resets(f))
		if err := read(t, conns[f].client, harness.SilenceTime); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s, without replypath: %v", f, err)
		}
		wires.WantEth0("without replypath", resets(f))
	}
	// The client sends again and again: maybe before the start, or as soon as programs
	// are attached, which is before they are said to be.
	eth1 := harness.Capture(t, c.Server.Eth1.Peer())
	c.p.Start()
	eth0 := harness.Capture(t, c.Server.Eth0.Peer())
	for _, f := range harness.Families {
		if err := read(t, conns[f].client, harness.AnswerTime); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %v", f, err)
		}
		left := topology.All(resets(f), topology.Going(topology.Received))
		if right, wrong := eth1.Count(left), eth0.Count(left); right == 0 || wrong > 0 {
			t.Errorf("%s: %d resets left by eth1, %d by eth0", f, right, wrong)
		}
	}
	wantNoFlows(t, c.p)
}

// wantNoFlows wants the flow table to show nothing: what has no socket is no flow.
func wantNoFlows(t *testing.T, p *harness.Product) {
	t.Helper()
	if flows := p.Flows(); len(flows) != 0 {
		t.Errorf("flows: %v", flows)
	}
}

// TestStraySegments has segments come in by eth1 that belong to nothing, several of
// each connection, seconds apart: every reset leaves by eth1 and is counted, and in
// mode observe by eth0.
func TestStraySegments(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	strays := map[string]layers.TCP{
		"ack": {ACK: true}, "data": {ACK: true, PSH: true}, "end": {FIN: true, ACK: true},
		"end without ack": {FIN: true}, "nothing": {}, "answer to nothing": {SYN: true, ACK: true},
	}
	eth0, eth1 := harness.NewInjector(t, n.Server.Eth0.Peer()), harness.NewInjector(t, n.Server.Eth1.Peer())
	by, injector := n.Server.Eth1, eth1
	resets := topology.Flags(topology.RST, topology.RST)
	send := func(port layers.TCPPort) (wires *harness.Wires) {
		t.Helper()
		wires = harness.Tap(t, n.Server)
		for _, f := range harness.Families {
			for _, tcp := range strays {
				tcp.SrcPort, tcp.DstPort, tcp.Seq, tcp.Ack, tcp.Window = port, closedPort, 1000, 2000, 1000
				port++
				injector.Send(segmentFrame(by.Peer().MAC, by.MAC, n.ClientEth0.Address(f), n.Server.Eth1.Address(f), &tcp)...)
			}
		}
		harness.Eventually(t, "every segment is answered", func() error {
			if eth0, eth1 := wires.Left(resets); len(eth0)+len(eth1) < len(harness.Families)*len(strays) {
				return fmt.Errorf("%d and %d resets", len(eth0), len(eth1))
			}
			return nil
		})
		return wires
	}
	send(4000).WantEth0("without replypath", resets)

	p := harness.On(t, n.Server.Host)
	p.Start("--observe", "--config", harness.WriteConfig(t, harness.SmallTables))
	before := countedBy(p)
	wantCounted(t, p, before, send(5000).WantEth0("in mode observe", resets), false)

	p.Expect(0, "mode", "enforce")
	before = countedBy(p)
	var frames []*topology.Frame
	for i := range 3 {
		if i > 0 {
			p.Age(1500 * time.Millisecond) // what is known of a segment could be forgotten
		}
		frames = append(frames, send(6000).WantEth1("the resets", resets)...)
	}
	wantCounted(t, p, before, frames, true)

	by, injector = n.Server.Eth0, eth0
	send(6000).WantEth0("the resets of the same tuples, now by eth0", resets)
	by, injector = n.Server.Eth1, eth1
	send(6000).WantEth1("and by eth1 again", resets)
	wantNoFlows(t, p)
}

// TestStraysAreNoFlows has somebody forge a segment by the wrong NIC, for a tuple that
// a client then opens a connection with, by eth1: the whole connection is answered
// there.
func TestStraysAreNoFlows(t *testing.T) {
	c := newCorners(t)
	at, injector := c.Server.Eth0.Peer(), harness.NewInjector(t, c.Server.Eth0.Peer())
	c.eachCorner(t, func(t *testing.T, f topology.Family) {
		client := netip.AddrPortFrom(c.ClientEth0.Address(f), 9002)
		server := netip.AddrPortFrom(c.Server.Eth1.Address(f), 9001)
		segments := topology.All(topology.TCP, topology.From(server.Addr()), topology.FromPort(server.Port()))
		before := harness.TapAll(t, c.eth1.nics...)
		injector.Send(segmentFrame(at.MAC, c.Server.Eth0.MAC, client.Addr(), server.Addr(), &layers.TCP{
			SrcPort: layers.TCPPort(client.Port()), DstPort: layers.TCPPort(server.Port()), Seq: 1000, Ack: 2000, ACK: true, Window: 1000,
		})...)
		wait(t, before.At(c.Server.Eth0), topology.All(segments, topology.Flags(topology.RST, topology.RST)))
		exits := harness.TapAll(t, c.eth1.nics...)
		a, b := open(t, c.Client, c.Server.Host, client, server)
		for range 3 {
			talk(t, a, b)
			talk(t, b, a)
		}
		endings["reset"](t, a, b)
		c.eth1.want(exits, "the connection", segments)
	})
}

// TestStrayFlood has far more segments come in by the wrong NIC that belong to nothing
// than there is room for: connections that clients open meanwhile by eth1 are answered
// there, and those that are open go on.
func TestStrayFlood(t *testing.T) {
	c := newCorners(t) // with small tables
	at, injector := c.Server.Eth0.Peer(), harness.NewInjector(t, c.Server.Eth0.Peer())
	c.eachCorner(t, func(t *testing.T, f topology.Family) {
		l := c.listen(t, f, dialect{})
		before := c.dial(t, f, l, dialect{})
		before.accept(t, l)
		exits := harness.TapAll(t, c.eth1.nics[1])
		port := layers.TCPPort(0)
		for range 20 {
			for range 250 {
				port++
				injector.Send(segmentFrame(at.MAC, c.Server.Eth0.MAC, c.ClientEth0.Address(f), c.Server.Eth1.Address(f), &layers.TCP{
					SrcPort: port, DstPort: closedPort, Seq: 1000, Ack: 2000, ACK: true, Window: 1000,
				})...)
			}
			p := c.dial(t, f, l, dialect{})
			p.accept(t, l)
			p.goOn(t)
			harness.Must(t, p.client.Close())
		}
		before.goOn(t)
		// The routers would drop what leaves by eth0: these connections show it themselves.
		exits.Want("the connections", before.segments, c.Server.Eth1, c.Server.Eth1.Peer().MAC)
	})
}
