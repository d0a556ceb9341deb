// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// closedPort is one that nobody listens on.
const closedPort = 9

// reserved are networks that Linux routes like any other, in spite of what they are
// reserved for (RFC 6890): the client has the first, the server's eth1 the second.
var reserved = [][2]netip.Prefix{
	{netip.MustParsePrefix("240.9.0.100/24"), netip.MustParsePrefix("240.1.0.100/24")},
	{netip.MustParsePrefix("0.9.0.100/24"), netip.MustParsePrefix("0.1.0.100/24")},
}

// withReserved gives the client and the server's eth1 such addresses as well, and the routers the ways there.
func withReserved(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	gatewayOf := func(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits()) }
	towardsReplication := await.Must1[*topology.Interface](t)(n.Replication.Interface("core")).Address(topology.IPv4)
	for _, pair := range reserved {
		client, server := pair[0], pair[1]
		await.Must(t, n.ClientEth0.AddAddress(client))
		await.Must(t, n.Server.Eth1.AddAddress(server))
		await.Must(t, n.ClientEth0.Peer().AddAddress(gatewayOf(client)))
		await.Must(t, n.Server.Eth1.Peer().AddAddress(gatewayOf(server)))
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: server.Masked(), Via: towardsReplication}))
		await.Must(t, n.ClientEth0.WaitReady(await.Within(t, await.AnswerTime)))
		await.Must(t, n.Server.Eth1.WaitReady(await.Within(t, await.AnswerTime)))
		traffic.Serve(t, n.Server.Host, server.Addr())
	}
}

// eachReserved runs a subtest for each kind of question to such an address, from such a one and from another.
func eachReserved(t *testing.T, n *topology.TwoNIC, name string, want func(*testing.T, *traffic.Conversation)) {
	for i, pair := range reserved {
		for j, peer := range []netip.Prefix{pair[0], n.ClientEth0.Addresses[0]} {
			for k, kind := range traffic.Kinds {
				if short.Run(t) && (i+j)%3 != k {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%s-%s", name, kind, peer.Addr(), pair[1].Addr()), func(t *testing.T) {
					client := *n.ClientEth0
					client.Addresses = []netip.Prefix{peer}
					want(t, traffic.NewConversation(t, kind, &client, pair[1].Addr()))
				})
			}
		}
	}
}

// askForTime has the client ask the server's eth1 for the time (ICMP timestamp, RFC 792), and returns what is answered.
func askForTime(t *testing.T, n *topology.TwoNIC) topology.Filter {
	t.Helper()
	from, to := n.ClientEth0.Address(topology.IPv4), n.Server.Eth1.Address(topology.IPv4)
	request := append([]byte{0, 77, 0, 1}, make([]byte, 12)...)
	frame := icmpFrame(n.ClientEth0.MAC, n.ClientEth0.Peer().MAC, from, to, kind{13, 0}, request)
	traffic.NewInjector(t, n.ClientEth0).Send(frame...)
	return topology.All(icmpOf(topology.IPv4, kind{14, 0}), topology.From(to), topology.To(from))
}

// TestAnswers has a client with addresses of 240.0.0.0/4 and 0.0.0.0/8, which clouds use, ask a server that has such
// addresses as well; ask for the time; and connect to a server that keeps nothing of the handshake, or listens at no
// address of its own. The answers leave by the interface that was asked.
func TestAnswers(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	withReserved(t, n)
	eachReserved(t, n, "without replypath", func(t *testing.T, c *traffic.Conversation) {
		wantLost(t, n.Server, c, n.ClientEth0)
	})
	wires := wire.Tap(t, n.Server)
	wait(t, wires.Eth0, askForTime(t, n))

	p, _ := product.StartOn(t, n.Server.Host)
	t.Run("time", func(t *testing.T) {
		wires, arrived := wire.Tap(t, n.Server), wire.Capture(t, n.ClientEth0)
		answer := askForTime(t, n)
		wait(t, arrived, answer)
		wires.WantEth1("the answer", answer)
		flows := p.In(t).Flows("--peer", n.ClientEth0.Address(topology.IPv4).String())
		if len(flows) != 1 || flows[0].Protocol != "icmp" {
			t.Errorf("the flows are %v", flows)
		}
	})
	eachReserved(t, n, "with replypath", func(t *testing.T, c *traffic.Conversation) {
		wantAnswers(t, n.Server, c, true)
		wantVerdict(t, explained(t, p, c), "corrected", "")
	})
	t.Run("wildcard", func(t *testing.T) {
		const port = 7007
		traffic.ServeAt(t, n.Server.Host, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
		for _, f := range traffic.Families {
			c := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
			c.Self = netip.AddrPortFrom(c.Self.Addr(), port)
			wantAnswers(t, n.Server, c, true)
		}
	})
	t.Run("SYN cookies", func(t *testing.T) {
		await.Must(t, n.Server.SetSysctl("net/ipv4/tcp_syncookies", "2")) // as under a flood
		for _, f := range traffic.Families {
			before := cookiesOf(t, n.Server.Host)
			wantAnswers(t, n.Server, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f)), true)
			before.wantMore(t, n.Server.Host, 1)
		}
	})
}

var dhcpPorts = map[topology.Family][2]uint16{topology.IPv4: {68, 67}, topology.IPv6: {546, 547}}

// TestUnicastDHCP has a relay, and a client that renews its lease, ask a DHCP server at eth1's address: one that is bound to
// it, and one that is bound to none. What the server renews itself leaves as routed.
func TestUnicastDHCP(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	p := product.On(t, n.Server.Host)
	talk := func(t *testing.T, from *topology.Interface, to netip.Addr, ports ...uint16) *traffic.Conversation {
		c := traffic.NewConversation(t, traffic.UDP, from, to)
		c.Peer, c.Self = netip.AddrPortFrom(c.Peer.Addr(), ports[0]), netip.AddrPortFrom(to, ports[1])
		return c
	}
	for _, f := range traffic.Families {
		own, client, server := n.Server.Eth1.Address(f), dhcpPorts[f][0], dhcpPorts[f][1]
		for name, at := range map[string]netip.Addr{"bound": own, "wildcard": addresses("0.0.0.0", "::")[f]} {
			t.Run(f.String()+"/"+name, func(t *testing.T) {
				p := p.In(t)
				traffic.ServeAt(t, n.Server.Host, netip.AddrPortFrom(at, server))
				asked := []*traffic.Conversation{
					talk(t, n.ClientEth0, own, server, server), talk(t, n.ClientEth0, own, client, server)}
				for _, c := range asked {
					if at == own {
						wantLost(t, n.Server, c, n.ClientEth0)
					} else if err := c.Ask(await.Within(t, await.SilenceTime)); err == nil {
						t.Errorf("%s is answered without replypath", c)
					}
				}
				p.Start()
				renewal, wires := talk(t, n.Server.Eth1, n.ClientEth0.Address(f), client, server), wire.Tap(t, n.Server)
				_ = renewal.Ask(await.Within(t, await.SilenceTime)) // whose answer comes by eth1, if any
				wires.WantEth0("a renewal of the server's own", renewal.Questions())
				for _, c := range asked {
					wantAnswers(t, n.Server, c, true)
				}
				p.Expect(0, "detach", "--stop")
			})
		}
	}
}

// cookies count the SYN cookies of a host, whatever the family.
type cookies struct{ sent, accepted int }

func cookiesOf(t *testing.T, host *topology.Host) (c cookies) {
	t.Helper()
	for line := range strings.Lines(testhost.Shell(t, host, "nstat -asz TcpExtSyncookiesSent TcpExtSyncookiesRecv")) {
		// What does not fit the one fits the other, or is a heading.
		_, _ = fmt.Sscanf(line, "TcpExtSyncookiesSent %d", &c.sent)
		_, _ = fmt.Sscanf(line, "TcpExtSyncookiesRecv %d", &c.accepted)
	}
	return c
}

// wantMore wants so many connections to have been opened since then, by a cookie each. One may have been sent twice.
func (c cookies) wantMore(t *testing.T, host *topology.Host, connections int) {
	t.Helper()
	now := cookiesOf(t, host)
	if sent, accepted := now.sent-c.sent, now.accepted-c.accepted; sent < connections || accepted != connections {
		t.Errorf("of %d connections, %d cookies were sent and %d came back", connections, sent, accepted)
	}
}
