// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// daemonPort is where the daemons of these tests listen.
const daemonPort = 5300

// listening is how a daemon binds its socket, and by which family it is asked.
type listening struct {
	name, network, address string
	asked                  topology.Family
}

var listenings = []listening{
	{"ipv4", "udp4", "0.0.0.0", topology.IPv4},
	{"ipv6", "udp6", "::", topology.IPv6},
	{"mapped", "udp", "::", topology.IPv4},
}

// eachListening runs a subtest for each.
func eachListening(t *testing.T, name string, run func(*testing.T, listening)) {
	for _, l := range listenings {
		t.Run(name+"/"+l.name, func(t *testing.T) { run(t, l) })
	}
}

// listen binds a socket on B as the daemon does.
func (l listening) listen(t *testing.T, host *topology.Host) net.PacketConn {
	t.Helper()
	at := net.JoinHostPort(l.address, fmt.Sprint(daemonPort))
	conn := await.Must1[net.PacketConn](t)(host.ListenPacket(t.Context(), l.network, at))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// serve answers by recvfrom and sendto.
func (l listening) serve(t *testing.T, host *topology.Host) {
	t.Helper()
	conn := l.listen(t, host)
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(buffer[:n], from)
		}
	}()
}

// asker is a UDP socket on A that is not connected, so that it shows who answers.
type asker struct {
	t    testing.TB
	conn net.PacketConn
	at   netip.AddrPort
}

func newAsker(t testing.TB, at *topology.Interface, f topology.Family) *asker {
	t.Helper()
	address := netip.AddrPortFrom(at.Address(f), 0).String()
	conn := await.Must1[net.PacketConn](t)(at.Host.ListenPacket(t.Context(), "udp", address))
	t.Cleanup(func() { conn.Close() })
	return &asker{t, conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// ask asks a daemon and returns who answered.
func (a *asker) ask(server netip.Addr) netip.AddrPort {
	a.t.Helper()
	question := []byte("who are you, " + server.String())
	await.Must1[int](a.t)(a.conn.WriteTo(question, net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, daemonPort))))
	answer, from := receive(a.t, a.conn)
	if !bytes.Equal(answer, question) {
		a.t.Errorf("answer %q", answer)
	}
	address := from.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
}

// wantFrom asks and wants that address to answer.
func (a *asker) wantFrom(asked, answers netip.Addr) {
	a.t.Helper()
	if got, want := a.ask(asked), netip.AddrPortFrom(answers, daemonPort); got != want {
		a.t.Errorf("%s was asked, %s answers, not %s", asked, got, want)
	}
}

// answersTo matches what the daemon sends to a socket.
func (a *asker) answers() topology.Filter {
	return topology.All(topology.UDP, topology.To(a.at.Addr()), topology.FromPort(daemonPort), topology.ToPort(a.at.Port()))
}

// sourceFeature returns what the status says of the source repair.
func sourceFeature(t *testing.T, p *product.Product) (available bool, effect string) {
	t.Helper()
	for _, f := range p.Status().Features {
		if f.Name == "repair_udp_source" {
			return f.Available, f.Effect
		}
	}
	t.Fatal("the status does not name repair_udp_source")
	return false, ""
}

// repairs returns what the metric says.
func repairs(p *product.Product, f topology.Family) float64 {
	return p.Metrics().Sum("replypath_source_repairs_total", "family="+f.String())
}

// wantSource wants the status to tell this of the source repair.
func wantSource(t *testing.T, p *product.Product, available bool, effect string) {
	t.Helper()
	got, says := sourceFeature(t, p)
	if got != available || !strings.Contains(says, effect) {
		t.Errorf("repair_udp_source: available %v, effect %q", got, says)
	}
}

// TestWildcardUDP asks a daemon that binds to no address: it answers from the address of the default route's
// interface, which nobody asked, and with replypath from the right one, by the right interface.
func TestWildcardUDP(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{})
	p := product.On(t, s.B.Host)
	eachListening(t, "a wildcard socket", func(t *testing.T, l listening) {
		l.serve(t, s.B.Host)
		eth0, eth1 := s.B.Eth0.Address(l.asked), s.B.Eth1.Address(l.asked)
		newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth0)
		client := await.Must1[net.Conn](t)(s.A.Dial(t.Context(), "udp", netip.AddrPortFrom(eth1, daemonPort).String()))
		defer client.Close()
		wires := wire.Tap(t, s.B)
		wantDiscarded(t, client, wires, eth0)

		p.Start()
		wantSource(t, p, true, "on: wildcard udp sockets reply from the address of the request")
		a := newAsker(t, s.A.Eth1, l.asked)
		wires = wire.Tap(t, s.B)
		for range 3 {
			a.wantFrom(eth1, eth1)
		}
		wires.WantEth1("the daemon", a.answers())
		newAsker(t, s.A.Eth0, l.asked).wantFrom(eth0, eth0)
		// The client from before is answered as well, whatever came first.
		if err := exchange(client, await.AnswerTime); err != nil {
			t.Errorf("the client from before: %v", err)
		}
		if got := repairs(p, l.asked); got != 5 {
			t.Errorf("%v repairs", got)
		}
		p.Expect(0, "detach", "--stop")
		newAsker(t, s.A.Eth1, l.asked).wantFrom(eth1, eth0)
	})
}

// wantDiscarded asks by a connected socket, which nobody else can answer.
func wantDiscarded(t *testing.T, client net.Conn, wires *wire.Wires, stranger netip.Addr) {
	t.Helper()
	port := client.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if err := exchange(client, await.SilenceTime); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that is connected to the address: %v", err)
	}
	wires.WantEth0("the stranger's answer", topology.All(topology.UDP, topology.From(stranger), topology.ToPort(port)))
}

// exchange asks once by a connected socket.
func exchange(client net.Conn, patience time.Duration) error {
	if _, err := client.Write([]byte("question")); err != nil {
		return err
	}
	if err := client.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := client.Read(make([]byte, 100))
	return err
}
