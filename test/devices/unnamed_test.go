// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// scrubbed is a server whose eth0 is asked through a tunnel, as behind a scrubbing service or a balancer that lets answers
// take the direct way (DSR): nobody takes them from the tunnel. Eth1 stands for the tunnel in what this package wants.
type scrubbed struct {
	*topology.TwoNIC
	server *topology.Server
	core   map[topology.Family]topology.Route
}

// tunnelNet is the network of the tunnel.
const tunnelNet = 50

// newScrubbed lays a tunnel without Ethernet header from the replication router to the server, by which the client's way to
// the server's address there leads.
func newScrubbed(t *testing.T) *scrubbed {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	end, _, err := n.ConnectTun(
		topology.NIC{Host: n.Server.Host, Name: "tun1", Addresses: addresses(tunnelNet, serverNumber)},
		topology.NIC{Host: n.Replication.Host, Name: "tun1", Addresses: addresses(tunnelNet, routerNumber)})
	await.Must(t, err)
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	s := &scrubbed{TwoNIC: n, server: &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: end}}
	core := await.Must1[*topology.Interface](t)(s.Replication.Interface("core"))
	s.core = make(map[topology.Family]topology.Route)
	for _, f := range s.Families() {
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: address(f, tunnelNet, 0).Masked(), Via: core.Address(f)}))
		traffic.Serve(t, n.Server.Host, end.Address(f))
		self := s.server.Eth0.Address(f)
		to := netip.PrefixFrom(self, self.BitLen())
		s.core[f] = topology.Route{Destination: to, Via: core.Address(f)}
		await.Must(t, s.Replication.AddRoute(topology.Route{Destination: to, Via: s.server.Eth1.Address(f), Interface: s.server.Eth1.Peer().Name}))
		testhost.Nft(t, s.Replication.Host, fmt.Sprintf("table inet scrubbing%d { chain forward { type filter hook forward priority 0; %s saddr %s drop; }; }",
			f, map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"}[f], self))
		traffic.Serve(t, s.Server.Host, self)
	}
	return s
}

// divert has requests for eth0 come through the tunnel.
func (s *scrubbed) divert(t *testing.T) {
	t.Helper()
	for _, f := range s.Families() {
		await.Must(t, s.Core.AddRoute(s.core[f]))
	}
}

func (s *scrubbed) asked(t *testing.T, f topology.Family, kind traffic.Kind) *traffic.Conversation {
	t.Helper()
	return traffic.NewConversation(t, kind, s.ClientEth0, s.server.Eth0.Address(f))
}

// wantRefused asks at a port where nobody listens, and wants the client to learn it by eth0.
func (s *scrubbed) wantRefused(t *testing.T, f topology.Family) {
	t.Helper()
	const closedPort = 9
	wires := wire.Tap(t, s.server)
	conn, err := s.Client.Dial(await.Within(t, await.AnswerTime), "tcp", netip.AddrPortFrom(s.server.Eth0.Address(f), closedPort).String())
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connected to %v: %v", conn, err)
	}
	wires.WantEth0("the reset", topology.All(topology.FromPort(closedPort), topology.Flags(topology.RST, topology.RST)))
}

// wantNamed has the configuration name the tunnel as the recipe says, and wants all answers by it, where nobody takes them.
func (s *scrubbed) wantNamed(t *testing.T, d *product.Daemon, config string) {
	t.Helper()
	text := testhost.ReadRecipe(t, "ingress-only-tunnel").Text("Tunnels that want replies back", "yaml")
	await.Must(t, os.WriteFile(config, []byte(strings.ReplaceAll(text, "tun1", s.server.Eth1.Name)), 0o600))
	d.Reload()
	traffic.EachQuestion(t, "named", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c, wires := s.asked(t, f, kind), wire.Tap(t, s.server)
		if err := wire.AskInVain(t, c, wires.Eth1); err == nil {
			t.Errorf("%s was answered through the tunnel", c)
		}
		wires.WantEth1(c.String(), c.Answers())
	})
}

// TestUnnamedTunnel has a tunnel bring requests for eth0's addresses: their answers leave as without replypath, those to
// conversations that began before as well, and doctor tells of it. What the tunnel's own addresses are asked is answered by
// the tunnel, and so is all once the configuration names it.
func TestUnnamedTunnel(t *testing.T) {
	s := newScrubbed(t)
	routed := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wire.WantBy(t, s.server, s.asked(t, f, kind), false)
	}
	p := product.On(t, s.Server.Host)
	config := product.WriteConfig(t, "")
	d := p.Start("--config", config)
	var begun []*traffic.Conversation
	traffic.EachQuestion(t, "before", func(_ *testing.T, f topology.Family, kind traffic.Kind) {
		c := s.asked(t, f, kind)
		wire.WantBy(t, s.server, c, false)
		begun = append(begun, c)
	})
	s.divert(t)
	for _, c := range begun {
		wire.WantBy(t, s.server, c, false)
	}
	traffic.EachQuestion(t, "through the tunnel", routed)
	for _, f := range s.Families() {
		s.wantRefused(t, f)
	}
	wantAllByEth1(t, s.TwoNIC, s.server)
	name := s.server.Eth1.Name
	if found := p.Doctor(0).Of("unnamed-tunnel", name).With("note", "addresses of eth0", "{name: "+name+"}"); len(found) != 1 {
		t.Errorf("doctor does not tell of the tunnel: %+v", found)
	}

	s.wantNamed(t, d, config)
	if found := p.Doctor(0).Of("unnamed-tunnel", name); len(found) > 0 {
		t.Errorf("doctor tells of a tunnel that is named: %+v", found)
	}
}

// TestUplink has PPP, or a modem, bring requests for a network that is routed to it: for an address of it on eth0, and for one
// that is translated. Once any route leads everywhere by it, their replies go back by it; by a VPN they do not.
func TestUplink(t *testing.T) {
	names := []string{"ppp0", "tun1", "wwan0"}
	if short.Run(t) {
		names = names[:1]
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			s := bareSite(t)
			s.Production = ethernet(s, "eth0", productionNet)
			s.Replication = tun(s, name, replicationNet)
			s.ready()
			s.serve()
			const routedNet, onEth0, translated = 60, 9, 10
			testhost.Nft(t, s.Server, `table inet nat { chain prerouting { type nat hook prerouting priority -100
				ip daddr 10.60.0.10 dnat ip to 10.1.0.100
				ip6 daddr 2001:db8:60::10 dnat ip6 to 2001:db8:1::100
			}; }`)
			for _, f := range traffic.Families {
				single := netip.PrefixFrom(address(f, routedNet, onEth0).Addr(), address(f, routedNet, onEth0).Addr().BitLen())
				await.Must(t, s.Production.AddAddress(single))
				traffic.Serve(t, s.Server, single.Addr())
				await.Must(t, s.Router.AddRoute(topology.Route{Destination: address(f, routedNet, 0).Masked(), Interface: s.Replication.Peer().Name}))
			}
			each := func(name string, want func(*testing.T, *traffic.Conversation)) {
				traffic.EachQuestion(t, name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
					for _, number := range []int{onEth0, translated} {
						want(t, s.ask(t, kind, address(f, routedNet, number).Addr()))
					}
				})
			}
			each("without replypath", s.wantConversationLost)
			p := product.On(t, s.Server)
			p.Start()
			traffic.EachQuestion(t, "its own address", s.wantRight)
			each("without a route", s.wantConversationLost)
			if found := p.Doctor(0).Of("unnamed-tunnel", name).With("note", "brought requests"); len(found) != 2 { // eth0's and translated ones
				t.Errorf("doctor does not tell of %s: %+v", name, found)
			}
			for _, f := range traffic.Families {
				await.Must(t, s.Server.AddRoute(topology.Route{Destination: anywhere(f), Interface: name, Table: 9}))
			}
			if name == "tun1" {
				each("a VPN with a route", s.wantConversationLost)
				return
			}
			for _, f := range traffic.Families {
				await.Eventually(t, "the route is known", func() error {
					return s.ask(t, traffic.UDP, address(f, routedNet, onEth0).Addr()).Ask(await.Within(t, await.SilenceTime))
				})
			}
			each("with a route", func(t *testing.T, c *traffic.Conversation) { s.wantAnswers(t, c, s.Replication) })
			if found := p.Doctor(0).Of("unnamed-tunnel", name); len(found) > 0 {
				t.Errorf("doctor tells of a way out: %+v", found)
			}
		})
	}
}
