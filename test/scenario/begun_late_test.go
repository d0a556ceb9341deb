// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/test/harness"
	"replypath/test/topology"
)

// leftovers are what there is at the server of a connection that it opened when
// segments of the client come late.
var leftovers = map[string]func(t *testing.T, opener, other net.Conn){
	"open":                 func(*testing.T, net.Conn, net.Conn) {},
	"closed by the client": endings["other closes"], // the server has nothing
	"reset":                endings["reset"],        // nor has the client
	"closed, in TIME_WAIT": endings["opener closes"],
}

// TestLateSegments has the server open a connection by eth0, from eth1's address, so
// that the client's segments come in by eth1. When it is long forgotten who opened it,
// segments come once more, by either NIC: none of them makes a flow of it, and the
// next connection from the same port goes where the routing table says.
func TestLateSegments(t *testing.T) {
	for name, end := range leftovers {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // the kernel has a tuple in TIME_WAIT wait for a second
			n := newLate(t)
			for _, f := range harness.Families {
				t.Run(f.String(), func(t *testing.T) { n.test(t, f, end, name != "open") })
			}
		})
	}
}

// lateNetwork is a server with replypath whose connections can be opened again soon.
type lateNetwork struct {
	*topology.TwoNIC
	p *harness.Product
}

func newLate(t *testing.T) lateNetwork {
	t.Helper()
	n := lateNetwork{TwoNIC: harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})}
	for _, h := range []*topology.Host{n.Client, n.Server.Host} {
		harness.Must(t, h.SetSysctl("net/ipv4/tcp_tw_reuse", "1"))
	}
	n.p = harness.On(t, n.Server.Host)
	n.p.Start("--config", harness.WriteConfig(t, harness.SmallTables))
	return n
}

func (n lateNetwork) test(t *testing.T, f topology.Family, end func(*testing.T, net.Conn, net.Conn), over bool) {
	server := netip.AddrPortFrom(n.Server.Eth1.Address(f), 9001)
	client := netip.AddrPortFrom(n.ClientEth0.Address(f), 9002)
	first := harness.TapAll(t, n.Server.Eth0, n.Server.Eth1)
	a, b := open(t, n.Server.Host, n.Client, server, client)
	talk(t, b, a)
	talk(t, a, b)
	end(t, a, b)
	if over {
		waitQuiet(t, server.Port(), n.Client, n.Server.Host)
	}
	came := topology.All(topology.TCP, topology.FromPort(client.Port()), topology.ToPort(server.Port()))
	segments := lateSegments(newest(t, first.Came(n.Server.Eth1, came)), over)
	fromServer := topology.All(topology.TCP, topology.FromPort(server.Port()), topology.ToPort(client.Port()))
	n.comeLate(t, client.Addr(), server.Addr(), segments, fromServer)
	if !over {
		endings["reset"](t, a, b)
	}

	n.p.In(t).ForgetBeginnings()
	exits := harness.TapAll(t, n.Server.Eth0, n.Server.Eth1)
	c, d := open(t, n.Server.Host, n.Client, server, client)
	for range 3 {
		talk(t, d, c)
		talk(t, c, d)
	}
	exits.Want("the next connection", fromServer, n.Server.Eth0, n.Server.Eth0.Peer().MAC)
	n.wantNoFlow(t)
	endings["reset"](t, c, d)
}

// comeLate has segments come by either NIC, each when nothing is known of the connection
// any more. None of them moves what answers it.
func (n lateNetwork) comeLate(t *testing.T, from, to netip.Addr, segments []*layers.TCP, fromServer topology.Filter) {
	t.Helper()
	exits := harness.TapAll(t, n.Server.Eth0, n.Server.Eth1)
	for _, nic := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		for _, segment := range segments {
			n.p.In(t).ForgetBeginnings()
			n.comesLate(t, nic, from, to, segment)
		}
	}
	n.wantNoFlow(t)
	// A RST goes back by the way of what it answers.
	answers := topology.All(fromServer, topology.Flags(topology.RST, 0))
	if left := exits.Left(n.Server.Eth1, answers); len(left) > 0 {
		t.Errorf("by eth1 left %s", harness.Describe(left))
	}
}

// numbers are those of a TCP segment.
type numbers struct{ seq, ack uint32 }

// newest returns where the sender of some segments stood with the last of them that
// acknowledged anything.
func newest(t *testing.T, frames []*topology.Frame) (last numbers) {
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
			last = numbers{end, tcp.Ack}
		}
	}
	if last == (numbers{}) {
		t.Fatal("the client has sent nothing")
	}
	return last
}

// lateSegments are what the client may send again, or at last. What ends a connection
// that is still open is of its beginning, and does not end it.
func lateSegments(last numbers, over bool) []*layers.TCP {
	old := last.seq - 5
	segments := []*layers.TCP{
		{Seq: last.seq, SYN: true, ACK: true},
		{Seq: last.seq, ACK: true},
		{Seq: old, ACK: true},
		{Seq: old, ACK: true, FIN: true},
		{Seq: old, RST: true},
		{Seq: old, ACK: true, RST: true},
	}
	if over {
		segments = append(segments,
			&layers.TCP{Seq: last.seq, ACK: true, FIN: true},
			&layers.TCP{Seq: last.seq, ACK: true, RST: true},
			&layers.TCP{Seq: last.seq, RST: true})
	}
	for _, segment := range segments {
		segment.SrcPort, segment.DstPort, segment.Window = 9002, 9001, 1000
		if segment.ACK {
			segment.Ack = last.ack
		}
	}
	return segments
}

// comesLate has a segment come to the server by one of its NICs, and returns when it
// has come.
func (n lateNetwork) comesLate(t *testing.T, nic *topology.Interface, from, to netip.Addr, segment *layers.TCP) {
	t.Helper()
	seen := harness.Capture(t, nic)
	defer func() { harness.Must(t, seen.Stop()) }()
	harness.NewInjector(t, nic.Peer()).Send(segmentFrame(nic.Peer().MAC, nic.MAC, from, to, segment)...)
	wait(t, seen, topology.All(topology.From(from), topology.TCP, topology.Going(topology.Received)))
}

// wantNoFlow wants nothing of the server's connections to have been recorded as a flow,
// now or before.
func (n lateNetwork) wantNoFlow(t *testing.T) {
	t.Helper()
	p := n.p.In(t)
	for _, flow := range p.Flows("--protocol", "tcp") {
		t.Errorf("there is a flow: %s", flow)
	}
	for _, event := range []bpf.DatapathEvent{bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN, bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED} {
		if count := p.Event(event); count != 0 {
			t.Errorf("%d flows were recorded", count)
		}
	}
}
