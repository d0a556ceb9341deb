// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// fromBound is how many messages a bound socket sends.
const fromBound = 3

// TestBoundDevice has a socket that is bound to eth0 (SO_BINDTODEVICE) send replies
// of a flow that came in by eth1: they stay on the device that the program chose,
// and are counted.
func TestBoundDevice(t *testing.T) {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		t.Run(f.String()+"/udp", func(t *testing.T) { testBoundDatagrams(t, f) })
		t.Run(f.String()+"/tcp", func(t *testing.T) { testBoundConnection(t, f) })
	}
}

// testBoundDatagrams has two sockets at one port. What comes in by eth1 reaches
// only the one that is not bound; both answer it.
func testBoundDatagrams(t *testing.T, f topology.Family) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	ctx := harness.Within(t, harness.AnswerTime)
	listen := func(at netip.AddrPort, options ...topology.SocketOption) net.PacketConn {
		options = append(options, topology.ReuseAddress())
		conn := harness.Must1[net.PacketConn](t)(n.Server.ListenPacket(ctx, "udp", at.String(), options...))
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	free := listen(netip.AddrPortFrom(n.Server.Eth1.Address(f), 0))
	self := netip.MustParseAddrPort(free.LocalAddr().String())
	bound := listen(self, topology.BindToDevice("eth0"))
	client := harness.Must1[net.Conn](t)(n.Client.Dial(ctx, "udp", self.String()))
	t.Cleanup(func() { client.Close() })
	answers := topology.All(topology.UDP, topology.From(self.Addr()), topology.FromPort(self.Port()))

	answerFrom := func(conn net.PacketConn) {
		buffer := make([]byte, 100)
		harness.Must1[int](t)(client.Write([]byte("question")))
		_, peer, err := free.ReadFrom(buffer)
		harness.Must(t, err)
		harness.Must1[int](t)(conn.WriteTo([]byte("answer"), peer))
		harness.Must1[int](t)(client.Read(buffer))
	}
	wires := harness.Tap(t, n.Server)
	answerFrom(free)
	wires.WantEth1("the answer of the socket that is not bound", answers)
	wantLeftAlone(t, n, p, f, "udp", answers, func() { answerFrom(bound) })
}

// testBoundConnection binds the socket of a connection that was accepted by eth1.
// From then on it hears of its peer by eth0 only, so the peer's way is moved there;
// that the flow stays at eth1 is the configuration's doing.
func testBoundConnection(t *testing.T, f topology.Family) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start("--config", harness.WriteConfig(t, "follow: pinned\n"))
	wires := harness.Tap(t, n.Server)
	c := newPush(t, n, f)
	wires.WantEth1("what was sent before the socket was bound", c.Segments)
	moveRoute(t, n, f, n.Server.Eth1.Address(f))
	bindToEth0(t, c.Server)
	wantLeftAlone(t, n, p, f, "tcp", c.Segments, c.Speak)
	e := p.In(t).Explain("--peer", c.Server.RemoteAddr().String(), "--self", c.Server.LocalAddr().String(), "--protocol", "tcp")
	if e.Verdict != "fallback" || harness.OrEmpty(e.Reason) != "bound_device" {
		t.Errorf("the way of what the bound socket sends: %s", e)
	}
}

// bindToEth0 binds a socket that is open already.
func bindToEth0(t *testing.T, conn net.Conn) {
	t.Helper()
	raw := harness.Must1[syscall.RawConn](t)(conn.(syscall.Conn).SyscallConn())
	var err error
	harness.Must(t, raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "eth0") }))
	harness.Must(t, err)
}

// wantLeftAlone sends, and wants every frame by eth0 and every one of them counted
// with the reason, while the only flow is still eth1's.
func wantLeftAlone(t *testing.T, n *topology.TwoNIC, p *harness.Product, f topology.Family, protocol string, frames topology.Filter, send func()) {
	t.Helper()
	wires, before := harness.Tap(t, n.Server), p.Metrics()
	for range fromBound {
		send()
	}
	left := wires.WantEth0("what the bound socket sent", frames)
	after := p.Metrics()
	// TCP may send the last one again.
	for eth0, _ := wires.Left(frames); len(eth0) > len(left); eth0, _ = wires.Left(frames) {
		left, after = eth0, p.Metrics()
	}
	if len(left) < fromBound {
		t.Errorf("%d frames of %d messages: %s", len(left), fromBound, harness.Describe(left))
	}
	pair := []string{"from_interface=eth0", "to_interface=eth1", "family=" + f.String(), "protocol=" + protocol}
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
		if got := after.Sum(want.name, want.labels...) - before.Sum(want.name, want.labels...); got != float64(want.count) {
			t.Errorf("%s%v: %v more, want %d", want.name, want.labels, got, want.count)
		}
	}
	if flows := p.Flows(); len(flows) != 1 || harness.OrEmpty(flows[0].Interface) != "eth1" {
		t.Errorf("the flow is not eth1's: %+v", flows)
	}
}
