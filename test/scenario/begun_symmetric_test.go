// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// symmetricPorts are those of protocols that use one port on both sides, so that
// nothing in a datagram tells a question from an answer.
var symmetricPorts = map[string]uint16{"vxlan": 4789, "ike": 500, "corosync": 5405, "wireguard": 51820}

// equals are two peers that send each other datagrams from one port to the same, by
// sockets that are not connected. The client reaches the server by eth1; the
// server's routing table leads to the client by eth0.
type equals struct {
	t                  *testing.T
	n                  *topology.TwoNIC
	client, server     net.PacketConn
	clientAt, serverAt netip.AddrPort
}

func newEquals(t *testing.T, n *topology.TwoNIC, f topology.Family, port uint16) *equals {
	t.Helper()
	p := &equals{
		t: t, n: n,
		clientAt: netip.AddrPortFrom(n.ClientEth0.Address(f), port),
		serverAt: netip.AddrPortFrom(n.Server.Eth1.Address(f), port),
	}
	p.client = harness.Must1[net.PacketConn](t)(n.Client.ListenPacket(t.Context(), "udp", p.clientAt.String()))
	t.Cleanup(func() { p.client.Close() })
	p.server = harness.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), "udp", p.serverAt.String()))
	t.Cleanup(func() { p.server.Close() })
	return p
}

// hand sends a datagram from one side and waits until the other has it.
func (p *equals) hand(from, to net.PacketConn, at netip.AddrPort) {
	p.t.Helper()
	_, err := from.WriteTo([]byte("datagram"), net.UDPAddrFromAddrPort(at))
	harness.Must(p.t, err)
	harness.Must(p.t, to.SetReadDeadline(time.Now().Add(harness.AnswerTime)))
	_, _, err = to.ReadFrom(make([]byte, 100))
	harness.Must(p.t, err)
}

func (p *equals) clientSpeaks() { p.t.Helper(); p.hand(p.client, p.server, p.serverAt) }
func (p *equals) serverSpeaks() { p.t.Helper(); p.hand(p.server, p.client, p.clientAt) }

// datagrams matches what the server sends.
func (p *equals) datagrams() topology.Filter {
	return topology.All(topology.UDP, topology.From(p.serverAt.Addr()), topology.FromPort(p.serverAt.Port()), topology.ToPort(p.clientAt.Port()))
}

// talk has both speak a few times, each also twice in a row.
func (p *equals) talk() {
	p.t.Helper()
	for range 2 {
		p.clientSpeaks()
		p.serverSpeaks()
		p.serverSpeaks()
		p.clientSpeaks()
	}
}

// want has a pair talk, and wants all that the server sends by eth1, or by eth0.
func (p *equals) want(eth1 bool) {
	p.t.Helper()
	wires := harness.Tap(p.t, p.n.Server)
	p.talk()
	p.wantOn(wires, eth1)
}

func (p *equals) wantOn(wires *harness.Wires, eth1 bool) {
	p.t.Helper()
	if eth1 {
		wires.WantEth1("the client spoke first", p.datagrams())
	} else {
		wires.WantEth0("the server spoke first", p.datagrams())
	}
}

// TestSymmetric has peers with equal ports speak, one of them first. That decides
// which way the server sends for as long as they go on, also under a new daemon.
func TestSymmetric(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	waitForBeginnings(t, n)
	pairs := make(map[*equals]bool)
	for _, f := range n.Families() {
		for _, port := range symmetricPorts {
			first := newEquals(t, n, f, port)
			first.clientSpeaks()
			pairs[first] = true
			// Ports that no protocol has: the pairs may not share a tuple.
			second := newEquals(t, n, f, port+10_000)
			second.serverSpeaks()
			pairs[second] = false
		}
	}
	wires := harness.Tap(t, n.Server)
	talk := func() {
		t.Helper()
		for pair := range pairs {
			pair.talk()
		}
	}
	talk()
	for range 2 {
		d.Kill()
		talk()
		d = p.Start()
		talk()
	}
	for pair, eth1 := range pairs {
		pair.wantOn(wires, eth1)
	}
}

// waitForBeginnings returns when what the server begins is known as such, which
// for a moment after the first start it is not.
func waitForBeginnings(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	port := uint16(30_000)
	harness.Eventually(t, "what the server begins is known as such", func() error {
		port++
		p := newEquals(t, n, topology.IPv4, port)
		wires := harness.Tap(t, n.Server)
		p.serverSpeaks()
		p.clientSpeaks()
		p.serverSpeaks()
		if _, eth1 := wires.Left(p.datagrams()); len(eth1) > 0 {
			return fmt.Errorf("by eth1 left %s", harness.Describe(eth1))
		}
		return nil
	})
}
