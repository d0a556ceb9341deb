// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/test/harness"
	"replypath/test/topology"
)

// endings are how a connection ends before its tuple is used again. Who closes first keeps the tuple in TIME_WAIT.
var endings = map[string]func(t *testing.T, opener, other net.Conn){
	"reset": func(t *testing.T, opener, other net.Conn) {
		harness.Must(t, opener.(*net.TCPConn).SetLinger(0))
		closeBoth(t, opener, other)
	},
	"opener closes": closeBoth,
	"other closes":  func(t *testing.T, opener, other net.Conn) { closeBoth(t, other, opener) },
}

func closeBoth(t *testing.T, first, second net.Conn) {
	harness.Must(t, first.Close())
	waitEnd(t, second)
	harness.Must(t, second.Close())
}

// waitEnd returns when the other end has closed or reset a connection.
func waitEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	harness.Must(t, conn.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the connection has not ended: %v", err)
	}
}

// waitQuiet returns when no connection with a port waits for another segment on
// any of the hosts: the last one has been sent, then.
func waitQuiet(t *testing.T, port uint16, hosts ...*topology.Host) {
	t.Helper()
	harness.Eventually(t, "the connection has ended", func() error {
		for _, h := range hosts {
			left := harness.Shell(t, h, fmt.Sprintf("ss -Htan state connected exclude time-wait '( sport = %[1]d or dport = %[1]d )'", port))
			if left != "" {
				return fmt.Errorf("on %s there is %s", h.Name, left)
			}
		}
		return nil
	})
}

// open opens a connection between two addresses and returns both of its ends.
func open(t *testing.T, opener, other *topology.Host, from, to netip.AddrPort) (a, b net.Conn) {
	t.Helper()
	ctx := harness.Within(t, harness.AnswerTime)
	l := harness.Must1[net.Listener](t)(other.Listen(ctx, "tcp", to.String()))
	defer l.Close()
	harness.Eventually(t, "the tuple can be opened", func() (err error) {
		a, err = opener.Dial(ctx, "tcp", to.String(), topology.FromAddress(from), topology.ReuseAddress())
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
		return err
	})
	b = harness.Must1[net.Conn](t)(l.Accept())
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// tuple is one that both the server and the client open connections with.
type tuple struct {
	*topology.TwoNIC
	p              *harness.Product
	server, client netip.AddrPort
}

func (s *begunServer) tuple(f topology.Family, port uint16) tuple {
	return tuple{s.TwoNIC, s.p, netip.AddrPortFrom(s.Server.Eth1.Address(f), port), netip.AddrPortFrom(s.ClientEth0.Address(f), port+1)}
}

// fromServer matches what the server sends.
func (c tuple) fromServer() topology.Filter {
	return topology.All(topology.TCP, topology.FromPort(c.server.Port()), topology.ToPort(c.client.Port()))
}

// byServer and byClient open a connection, in which both speak.
func (c tuple) byServer(t *testing.T) (opener, other net.Conn) {
	opener, other = open(t, c.Server.Host, c.Client, c.server, c.client)
	talk(t, other, opener)
	talk(t, opener, other)
	return opener, other
}

func (c tuple) byClient(t *testing.T) (opener, other net.Conn) {
	opener, other = open(t, c.Client, c.Server.Host, c.client, c.server)
	talk(t, opener, other)
	talk(t, other, opener)
	return opener, other
}

// TestBegunConnections has a server open connections from eth1's address, which leave by eth0 as routed.
func TestBegunConnections(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	for _, h := range []*topology.Host{n.Client, n.Server.Host} {
		harness.Must(t, h.SetSysctl("net/ipv4/tcp_tw_reuse", "1")) // a tuple in TIME_WAIT may be opened again after a second
	}
	s := &begunServer{TwoNIC: n, p: harness.On(t, n.Server.Host)}
	s.p.Start("--config", harness.WriteConfig(t, harness.SmallTables))
	s.run(t, "late segments", testLateSegments)
	s.run(t, "closed doors", testClosedDoors)
	s.run(t, "tuple used again", testTupleReused)
}

// testClosedDoors has the server knock at closed doors, from either of its addresses: it learns of them as ever, and all
// that it sends goes where the routing table says.
func testClosedDoors(t *testing.T, s *begunServer) {
	promptErrors(t, s.Client)
	before := countedBy(s.p)
	for _, f := range harness.Families {
		for _, from := range []*topology.Interface{s.Server.Eth0, s.Server.Eth1} {
			for _, network := range []string{"tcp", "udp"} {
				wires := harness.Tap(t, s.Server)
				to := netip.AddrPortFrom(s.ClientEth0.Address(f), closedPort)
				for range 3 {
					source := topology.FromAddress(netip.AddrPortFrom(from.Address(f), 0))
					conn, err := s.Server.Dial(harness.Within(t, harness.AnswerTime), network, to.String(), source)
					if err == nil {
						harness.Must1[int](t)(conn.Write([]byte("question")))
						err = read(t, conn, harness.AnswerTime)
						harness.Must(t, conn.Close())
					}
					if !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s from %s: %v", network, from.Address(f), err)
					}
				}
				wires.WantEth0(network+" from "+from.Address(f).String(), topology.All(topology.From(from.Address(f)), topology.To(to.Addr())))
			}
		}
	}
	wantCounted(t, s.p, before, nil, true)
	wantNoFlows(t, s.p)
}

// testTupleReused opens connections with one and the same tuple in turns: from the server, from the client, and so on.
// What the server opens goes where the routing table says, what the client opens is answered by eth1, each time, whoever
// was left in TIME_WAIT.
func testTupleReused(t *testing.T, s *begunServer) {
	type use struct {
		tuple
		end func(t *testing.T, opener, other net.Conn)
	}
	var uses []use
	for _, end := range endings {
		for _, f := range harness.Families {
			uses = append(uses, use{s.tuple(f, uint16(9001+2*len(uses))), end})
		}
	}
	for i, outward := range []bool{true, false, true, false, false, true, true} {
		for _, c := range uses {
			wires := harness.Tap(t, s.Server)
			opened := c.byClient
			if outward {
				opened = c.byServer
			}
			a, b := opened(t)
			for range 2 {
				talk(t, a, b)
				talk(t, b, a)
			}
			c.end(t, a, b)
			waitQuiet(t, c.server.Port(), s.Client, s.Server.Host)
			wires.Want(!outward, fmt.Sprintf("%s, connection %d, outward %t", c.server, i+1, outward), c.fromServer())
		}
	}
}

// leftovers are what there is at the server of a connection that it opened when
// segments of the client come late.
var leftovers = map[string]func(t *testing.T, opener, other net.Conn){
	"open":                 func(*testing.T, net.Conn, net.Conn) {},
	"closed by the client": endings["other closes"], // the server has nothing
	"reset":                endings["reset"],        // nor has the client
	"closed, in TIME_WAIT": endings["opener closes"],
}

// testLateSegments has segments of the client's come once more when it is long forgotten who opened the connection, by
// either NIC: none of them makes a flow of it, and the next connection from the same port goes where the routing table
// says.
func testLateSegments(t *testing.T, s *begunServer) {
	for name, end := range leftovers {
		for _, f := range harness.Families {
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				c := s.tuple(f, 9001)
				c.p = s.p.In(t)
				c.comeLate(t, end, name != "open")
			})
		}
	}
}

func (c tuple) comeLate(t *testing.T, end func(*testing.T, net.Conn, net.Conn), over bool) {
	first := harness.Capture(t, c.Server.Eth1)
	a, b := c.byServer(t)
	end(t, a, b)
	if over {
		waitQuiet(t, c.server.Port(), c.Client, c.Server.Host)
	}
	came := topology.All(topology.TCP, topology.FromPort(c.client.Port()), topology.ToPort(c.server.Port()), topology.Going(topology.Received))
	seq, ack := newest(t, first.Frames(came))
	segments := c.lateSegments(seq, ack, over)

	wires := harness.Tap(t, c.Server)
	for _, nic := range []*topology.Interface{c.Server.Eth0, c.Server.Eth1} {
		injector, seen := harness.NewInjector(t, nic.Peer()), harness.Capture(t, nic)
		for i, segment := range segments {
			c.p.ForgetBeginnings()
			injector.Send(segmentFrame(nic.Peer().MAC, nic.MAC, c.client.Addr(), c.server.Addr(), segment)...)
			harness.Must1[[]*topology.Frame](t)(seen.WaitCount(harness.Within(t, harness.AnswerTime), i+1, came))
		}
	}
	c.wantNoFlow(t)
	// A RST goes back by the way of what it answers.
	if _, left := wires.Left(topology.All(c.fromServer(), topology.Flags(topology.RST, 0))); len(left) > 0 {
		t.Errorf("by eth1 left %s", harness.Describe(left))
	}
	if !over {
		endings["reset"](t, a, b)
	}

	c.p.ForgetBeginnings()
	wires = harness.Tap(t, c.Server)
	a, b = c.byServer(t)
	for range 2 {
		talk(t, b, a)
		talk(t, a, b)
	}
	wires.WantEth0("the next connection", c.fromServer())
	c.wantNoFlow(t)
	endings["reset"](t, a, b)
}

// newest returns the numbers that the sender of some segments would go on with, by the last of them that acknowledged
// anything.
func newest(t *testing.T, frames []*topology.Frame) (seq, ack uint32) {
	t.Helper()
	for _, frame := range frames {
		tcp, ok := frame.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			t.Fatalf("no TCP segment: %s", frame)
		}
		end := tcp.Seq + uint32(len(tcp.Payload))
		if tcp.SYN || tcp.FIN {
			end++
		}
		if tcp.ACK {
			seq, ack = end, tcp.Ack
		}
	}
	if ack == 0 {
		t.Fatal("the client has sent nothing")
	}
	return seq, ack
}

// lateSegments are what the client may send again, or at last. What ends a connection
// that is still open is of its beginning, and does not end it.
func (c tuple) lateSegments(seq, ack uint32, over bool) []*layers.TCP {
	old := seq - 5
	segments := []*layers.TCP{
		{Seq: seq, SYN: true, ACK: true},
		{Seq: seq, ACK: true},
		{Seq: old, ACK: true},
		{Seq: old, ACK: true, FIN: true},
		{Seq: old, RST: true},
		{Seq: old, ACK: true, RST: true},
	}
	if over {
		segments = append(segments,
			&layers.TCP{Seq: seq, ACK: true, FIN: true},
			&layers.TCP{Seq: seq, ACK: true, RST: true},
			&layers.TCP{Seq: seq, RST: true})
	}
	for _, segment := range segments {
		segment.SrcPort, segment.DstPort, segment.Window = layers.TCPPort(c.client.Port()), layers.TCPPort(c.server.Port()), 1000
		if segment.ACK {
			segment.Ack = ack
		}
	}
	return segments
}

// wantNoFlow wants nothing of the server's connections to have been recorded as a flow,
// now or before.
func (c tuple) wantNoFlow(t *testing.T) {
	t.Helper()
	wantNoFlows(t, c.p)
	for _, event := range []bpf.DatapathEvent{bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN, bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED} {
		if count := c.p.Event(event); count != 0 {
			t.Errorf("%d flows were recorded", count)
		}
	}
}
