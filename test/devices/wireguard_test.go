// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const wireGuardPort = 51820

// peer is one end of a WireGuard tunnel.
type peer struct {
	*topology.Interface
	key *ecdh.PrivateKey
}

// newPeer makes a WireGuard device with a new key.
func newPeer(t *testing.T, host *topology.Host, name string, addresses ...netip.Prefix) peer {
	t.Helper()
	i := made[*topology.Interface](t, "WireGuard")(host.AddWireGuard(name, addresses...))
	return peer{i, await.Must1[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))}
}

// talksTo tells the device where its only peer is, or with an endpoint that is not valid, that it will hear from it.
func (p peer) talksTo(t *testing.T, other peer, endpoint netip.Addr) {
	t.Helper()
	text := base64.StdEncoding.EncodeToString
	where := ""
	if endpoint.IsValid() {
		where = "endpoint " + netip.AddrPortFrom(endpoint, wireGuardPort).String()
	}
	testhost.Shell(t, p.Host, fmt.Sprintf("echo %s | wg set %s listen-port %d private-key /dev/stdin peer %s allowed-ips 0.0.0.0/0,::/0 %s",
		text(p.key.Bytes()), p.Name, wireGuardPort, text(other.key.PublicKey().Bytes()), where))
}

// innerNet is the network inside the tunnel between the client and the server.
const innerNet = 50

// newWireGuard builds a site whose client reaches the server's replication address
// by a tunnel as well, with echo servers inside.
func newWireGuard(t *testing.T, outer topology.Family) (*site, peer) {
	t.Helper()
	s := newSite(t, ethernet, ethernet)
	server := newPeer(t, s.Server, "wg0", addresses(innerNet, routerNumber)...)
	client := newPeer(t, s.Client, "wg0", addresses(innerNet, serverNumber)...)
	server.talksTo(t, client, netip.Addr{})
	client.talksTo(t, server, s.Replication.Address(outer))
	for _, f := range traffic.Families {
		traffic.Serve(t, s.Server, server.Address(f))
	}
	await.Must(t, s.WaitReady(await.Within(t, await.AnswerTime)))
	return s, server
}

// datagrams are those of the tunnel that the server sends from one of its addresses.
func datagrams(from netip.Addr) topology.Filter {
	return topology.All(topology.UDP, topology.From(from), topology.FromPort(wireGuardPort))
}

// TestTunnelOverReplication has the outer datagrams of the server's answers leave by replication, where the tunnel was
// asked, and the inner answers by the tunnel that they were asked through, although the route to the client leads to
// production.
func TestTunnelOverReplication(t *testing.T) {
	s, server := newWireGuard(t, topology.IPv6)
	answers := datagrams(s.Replication.Address(topology.IPv6))
	lost := wire.TapAll(t, s.nics()...)
	c := s.ask(t, traffic.UDP, server.Address(topology.IPv4))
	await.Must(t, c.Connect(await.Within(t, await.AnswerTime)))
	asked := make(chan error, 1)
	go func() { asked <- c.Ask(await.Within(t, await.AnswerTime)) }()
	_, err := lost.At(s.Production).Wait(await.Within(t, await.AnswerTime), answers)
	await.Must(t, err)
	lost.Want("the tunnel without replypath", answers, s.Production, s.Production.Peer().MAC)

	p, _ := product.StartOn(t, s.Server)
	wantManaged(t, p.Status(), "eth0", "eth1", "wg0")
	seen := wire.TapAll(t, s.nics()...)
	s.wantInside(t, server)
	seen.Want("the tunnel with replypath", answers, s.Replication, s.Replication.Peer().MAC)
	t.Logf("the tunnel's own datagrams from the address that was asked: %d by eth1, %d by eth0",
		len(seen.Left(s.Replication, answers)), len(seen.Left(s.Production, answers)))
}

// TestTunnelRoams is the same over IPv4, where WireGuard leaves nothing to mend: it forgets the address that it was
// asked on when the route leads to another interface than the question came by (drivers/net/wireguard/socket.c, send4),
// and answers from production's address. The client follows.
func TestTunnelRoams(t *testing.T) {
	s, server := newWireGuard(t, topology.IPv4)
	s.wantTunnelFrom(t, server, s.Production, s.Replication)
}

// TestTunnelKept is the remedy: where a rule by source address leads to the interface that
// the question came by, WireGuard keeps the address that it was asked on.
func TestTunnelKept(t *testing.T) {
	s, server := newWireGuard(t, topology.IPv4)
	asked := s.Replication.Address(topology.IPv4)
	testhost.Shell(t, s.Server, fmt.Sprintf("ip rule add from %s lookup 100; ip route add default via %s dev %s table 100",
		asked, address(topology.IPv4, replicationNet, routerNumber).Addr(), s.Replication.Name))
	s.wantTunnelFrom(t, server, s.Replication, s.Production)
}

// wantTunnelFrom starts replypath, asks through the tunnel, and wants the tunnel's own datagrams to have an interface's
// address and to leave by it, and none that leaves by production to have the other one's.
func (s *site) wantTunnelFrom(t *testing.T, server peer, by, other *topology.Interface) {
	t.Helper()
	product.On(t, s.Server).Start()
	seen := wire.TapAll(t, s.nics()...)
	s.wantInside(t, server)
	own := seen.Want("the tunnel", datagrams(by.Address(topology.IPv4)), by, by.Peer().MAC)
	n := len(seen.Left(s.Production, datagrams(other.Address(topology.IPv4))))
	if n > 0 {
		t.Errorf("%d datagrams from the address of %s left by production", n, other.Name)
	}
	t.Logf("the tunnel's own datagrams: %d by %s from its address, %d by eth0 from that of %s", len(own), by.Name, n, other.Name)
}

// wantInside asks through the tunnel, from the client's address outside of it, and wants every answer by the tunnel.
func (s *site) wantInside(t *testing.T, server peer) {
	seen := wire.TapAll(t, s.nics()...)
	traffic.EachQuestion(t, "inside", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		inside := wire.Capture(t, server.Interface)
		c := s.ask(t, kind, server.Address(f))
		// WireGuard begins its handshake again every five seconds.
		await.Must(t, c.AskFor(await.Within(t, 2*await.AnswerTime), 1000))
		byTunnel := inside.Count(topology.All(c.Answers(), topology.Going(topology.Sent)))
		if byTunnel == 0 {
			t.Errorf("%s: no answer left by the tunnel", c)
		}
		for _, nic := range s.nics() {
			if clear := seen.Left(nic, c.Answers()); len(clear) > 0 {
				t.Errorf("%s: beside the tunnel left by %s %s", c, nic.Name, wire.Describe(clear))
			}
		}
	})
}
