// SPDX-License-Identifier: Apache-2.0

package devices

import (
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

// The overlay network of TestDistantTunnel.
var overlay = map[topology.Family][2]netip.Prefix{
	topology.IPv4: {netip.MustParsePrefix("10.40.0.1/24"), netip.MustParsePrefix("10.40.0.100/24")},
	topology.IPv6: {netip.MustParsePrefix("2001:db8:40::1/64"), netip.MustParsePrefix("2001:db8:40::100/64")},
}

// distant is a VXLAN tunnel whose other end, the client, is not on a link of the server's: what carries it comes in by
// eth1, through the replication router, and the route back leads by eth0.
type distant struct {
	*topology.TwoNIC
	outer topology.Family
	// end is the server's device, and server has it in the place of eth1.
	end    *topology.Interface
	server *topology.Server
}

// newDistant lays such a tunnel. The server's end has no remote address and learns it from
// what comes in, so that it never speaks first. With one port, datagrams come from the port
// that they go to; else from one that differs by what is inside.
func newDistant(t *testing.T, outer topology.Family, onePort bool) *distant {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Offloads: topology.WireExact})
	v := topology.VXLAN{Name: "vxlan7", ID: 7, SamePort: onePort}
	server, client := v, v
	server.Local = n.Server.Eth1.Address(outer)
	client.Local, client.Remote = n.ClientEth0.Address(outer), server.Local
	for _, f := range n.Families() {
		client.Addresses = append(client.Addresses, overlay[f][0])
		server.Addresses = append(server.Addresses, overlay[f][1])
	}
	end, _, err := n.Tunnel(n.Server.Host, server, n.Client, client)
	await.Must(t, err)
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	traffic.ServeNICs(t, end)
	return &distant{n, outer, end, &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: end}}
}

// introduce has both ends know each other's MAC without a question by the tunnel.
func (d *distant) introduce(t *testing.T) {
	t.Helper()
	for _, f := range d.Families() {
		await.Must(t, d.end.AddNeighbour(d.end.Peer().Address(f), d.end.Peer().MAC))
		await.Must(t, d.end.Peer().AddNeighbour(d.end.Address(f), d.end.MAC))
	}
}

// forget takes that back.
func (d *distant) forget(t *testing.T) {
	t.Helper()
	for _, host := range []*topology.Host{d.Server.Host, d.Client} {
		testhost.Shell(t, host, "ip -4 neighbour flush dev vxlan7 nud permanent; ip -6 neighbour flush dev vxlan7 nud permanent")
	}
}

// inside is a conversation between the addresses of the tunnel's ends.
func (d *distant) inside(t *testing.T, f topology.Family, kind traffic.Kind) *traffic.Conversation {
	t.Helper()
	return traffic.NewConversation(t, kind, d.end.Peer(), d.end.Address(f))
}

// through is one whose client has its own address, to which the server's route leads by
// eth0, and asks through the tunnel.
func (d *distant) through(t *testing.T, f topology.Family, kind traffic.Kind) *traffic.Conversation {
	t.Helper()
	return traffic.NewConversation(t, kind, d.ClientEth0, d.end.Address(f))
}

// carriers are the datagrams that carry what the server sends into the tunnel.
func (d *distant) carriers() topology.Filter {
	const port = 4789
	return topology.All(topology.UDP, topology.ToPort(port),
		topology.From(d.Server.Eth1.Address(d.outer)), topology.To(d.ClientEth0.Address(d.outer)))
}

// wantCarriersLost asks inside, and wants what carries the answer to leave by eth0 and not to arrive.
func (d *distant) wantCarriersLost(t *testing.T, f topology.Family, kind traffic.Kind) {
	t.Helper()
	wires, c := wire.Tap(t, d.Server), d.inside(t, f, kind)
	if err := wire.AskUntilLost(t, c, wires.Eth0, d.carriers()); err == nil {
		t.Errorf("%s was answered, although what carries the answer came from the wrong side", c)
	}
	wires.WantEth0("what carries "+c.String(), d.carriers())
}

// TestDistantTunnel has the server asked through a tunnel that begins behind eth1's router: answers go into the tunnel,
// where their questions came from, and what carries them by eth1 to the router. Either is lost without replypath. What
// the server itself asks the client goes neither way.
func TestDistantTunnel(t *testing.T) {
	for _, outer := range traffic.Families {
		t.Run("over "+outer.String(), func(t *testing.T) {
			d := newDistant(t, outer, true)
			d.introduce(t)
			traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
				wire.WantLost(t, d.server, d.through(t, f, kind))
				d.wantCarriersLost(t, f, kind)
			})
			d.forget(t)
			p, _ := product.StartOn(t, d.Server.Host)
			if i := p.Status().Interface(d.end.Name); i == nil || !i.Attached {
				t.Errorf("%s is not managed: %+v", d.end.Name, i)
			}
			// Until the client speaks, what was asked in vain may still be answered again.
			traffic.AskSizes(t, d.inside(t, topology.IPv4, traffic.UDP))
			wires, before := wire.Tap(t, d.Server), movedTo(p, "eth1")
			traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
				wire.WantByEth1(t, d.server, d.inside(t, f, kind))
				wire.WantByEth1(t, d.server, d.through(t, f, kind))
			})
			var carriers int
			await.Eventually(t, "what left is what was counted", func() error { // connections may just be ending
				_, left := wires.Left(d.carriers())
				if carriers = int(movedTo(p, "eth1") - before); carriers != len(left) {
					return fmt.Errorf("%d datagrams left by eth1, %d were counted as moved there", len(left), carriers)
				}
				return nil
			})
			wires.WantEth1("what carries the answers", d.carriers())
			t.Logf("%d datagrams of the tunnel left by eth1 and were counted; %.0f packets inside were moved into it", carriers, movedTo(p, "vxlan7"))
			if movedTo(p, "vxlan7") == 0 {
				t.Error("none was moved into the tunnel")
			}
			d.wantOwnQuestions(t, p)
		})
	}
}

// wantOwnQuestions wants what the server itself asks the client, beside the tunnel, to go as routed.
func (d *distant) wantOwnQuestions(t *testing.T, p *product.Product) {
	p.WaitGrace()
	traffic.ServeNICs(t, d.ClientEth0)
	traffic.EachQuestion(t, "the server asks", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, d.Server.Eth0, d.ClientEth0.Address(f))
		wires := wire.Tap(t, d.Server)
		traffic.AskSizes(t, c)
		wires.WantEth0(c.String(), c.Questions())
	})
}

// movedTo counts the packets that were moved from eth0 to another device.
func movedTo(p *product.Product, name string) float64 {
	return p.Metrics().Sum("replypath_corrected_packets_total", "from_interface=eth0", "to_interface="+name)
}

// TestDistantTunnelOfManyPorts has the tunnel's datagrams come from ports that differ by what
// is inside, as VXLAN's do unless told otherwise: by its ports, what carries an answer is none
// to what carried the question, and goes as routed, like all that the host starts.
func TestDistantTunnelOfManyPorts(t *testing.T) {
	for _, outer := range traffic.Families {
		t.Run("over "+outer.String(), func(t *testing.T) {
			d := newDistant(t, outer, false)
			d.introduce(t)
			product.On(t, d.Server.Host).Start()
			traffic.EachQuestion(t, "with replypath", d.wantCarriersLost)
		})
	}
}
