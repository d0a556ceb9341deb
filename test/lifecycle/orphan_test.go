// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// orphan is a flow that came in by an interface which goes away, while the address that
// was asked stays, on eth0.
type orphan struct {
	t         *testing.T
	kind      harness.Kind
	peer, own netip.AddrPort
	// question has the client ask, from the same port every time, and the server hear
	// it; push has the server send, and heard the client receive that.
	question, push, heard func()
	// answers are all that the server sends.
	answers topology.Filter
}

// newOrphans has the client ask the interface by UDP and TCP, which answers.
func newOrphans(l *late) map[topology.Family][]*orphan {
	l.t.Helper()
	orphans := make(map[topology.Family][]*orphan)
	for f, own := range l.addresses() {
		orphans[f] = []*orphan{newDatagrams(l, f), newStream(l, f)}
		for _, o := range orphans[f] {
			o.begin(l)
		}
		harness.Must(l.t, l.n.Server.Eth0.AddAddress(netip.PrefixFrom(own, own.BitLen())))
	}
	return orphans
}

// addresses are those of the interface, also once it is gone.
func (l *late) addresses() map[topology.Family]netip.Addr {
	addresses := make(map[topology.Family]netip.Addr)
	for _, f := range l.n.Families() {
		addresses[f] = l.Address(f)
	}
	return addresses
}

// begin has the first answer leave by the interface.
func (o *orphan) begin(l *late) {
	o.t.Helper()
	o.answers = topology.All(protocolOf(o.kind), topology.From(o.own.Addr()), topology.FromPort(o.own.Port()))
	wires := harness.Tap(o.t, &topology.Server{Host: l.n.Server.Host, Eth0: l.n.Server.Eth0, Eth1: l.Interface})
	o.ask()
	if answers := wires.WantEth1("the answer", o.answers); o.kind == harness.UDP && len(answers) != 1 {
		o.t.Errorf("%d answers left by %s", len(answers), l.name)
	}
}

// newDatagrams uses sockets that are not connected: to a connected one only the host
// itself speaks first.
func newDatagrams(l *late, f topology.Family) *orphan {
	l.t.Helper()
	t := l.t
	listen := func(host *topology.Host, at netip.Addr) net.PacketConn {
		address := netip.AddrPortFrom(at, 0).String()
		conn := harness.Must1[net.PacketConn](t)(host.ListenPacket(harness.Within(t, harness.AnswerTime), "udp", address))
		t.Cleanup(func() { conn.Close() })
		harness.Must(t, conn.SetDeadline(time.Now().Add(2*harness.AnswerTime)))
		return conn
	}
	client, server := listen(l.n.Client, l.n.ClientEth0.Address(f)), listen(l.n.Server.Host, l.Address(f))
	send := func(from, to net.PacketConn, text string) {
		harness.Must1[int](t)(from.WriteTo([]byte(text), to.LocalAddr()))
	}
	receive := func(conn net.PacketConn) {
		_, _, err := conn.ReadFrom(make([]byte, 100))
		harness.Must(t, err)
	}
	return &orphan{
		t: t, kind: harness.UDP, peer: addressOf(client.LocalAddr()), own: addressOf(server.LocalAddr()),
		question: func() { send(client, server, "question"); receive(server) },
		push:     func() { send(server, client, "push") },
		heard:    func() { receive(client) },
	}
}

// newStream uses a connection.
func newStream(l *late, f topology.Family) *orphan {
	l.t.Helper()
	t, ctx := l.t, harness.Within(l.t, harness.AnswerTime)
	listener := harness.Must1[net.Listener](t)(l.n.Server.Listen(ctx, "tcp", netip.AddrPortFrom(l.Address(f), 0).String()))
	defer listener.Close()
	client := harness.Must1[net.Conn](t)(l.n.Client.Dial(ctx, "tcp", listener.Addr().String()))
	server := harness.Must1[net.Conn](t)(listener.Accept())
	for _, conn := range []net.Conn{client, server} {
		t.Cleanup(func() { conn.Close() })
		harness.Must(t, conn.SetDeadline(time.Now().Add(2*harness.AnswerTime)))
	}
	send := func(from net.Conn, text string) { harness.Must1[int](t)(from.Write([]byte(text))) }
	receive := func(conn net.Conn, text string) { harness.Must1[int](t)(io.ReadFull(conn, make([]byte, len(text)))) }
	return &orphan{
		t: t, kind: harness.TCP, peer: addressOf(client.LocalAddr()), own: addressOf(server.LocalAddr()),
		question: func() { send(client, "question"); receive(server, "question") },
		push:     func() { send(server, "push") },
		heard:    func() { receive(client, "push") },
	}
}

func addressOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

// ask has the client ask once more, and the server answer.
func (o *orphan) ask() {
	o.t.Helper()
	o.question()
	o.push()
	o.heard()
}

// wantOnItsOwn has the server go on sending before the peer can reach it again: that
// takes the kernel's way.
func (o *orphan) wantOnItsOwn(p *harness.Product, wires *harness.Wires) {
	o.t.Helper()
	explained := p.Explain("--protocol", string(o.kind), "--peer", o.peer.String(), "--self", o.own.String())
	if reason := harness.OrEmpty(explained.Reason); explained.Verdict != "fallback" || reason != "link_down" {
		o.t.Errorf("%s", explained)
	}
	o.push()
	o.heard()
	wires.WantEth0("what goes on to be sent", o.answers)
}

// sentBeforeAsked counts what the server sent until the first packet of the peer came
// in by eth0. TCP sends again what the peer cannot acknowledge.
func (o *orphan) sentBeforeAsked(eth0 *topology.Capture) (sent int) {
	question := topology.All(topology.From(o.peer.Addr()), topology.FromPort(o.peer.Port()), topology.To(o.own.Addr()), topology.ToPort(o.own.Port()))
	for _, frame := range eth0.Frames(topology.OneOf(question, o.answers)) {
		if frame.Direction == topology.Sent {
			return sent
		}
		sent++
	}
	return sent
}

func protocolOf(kind harness.Kind) topology.Filter {
	if kind == harness.TCP {
		return topology.TCP
	}
	return topology.UDP
}
