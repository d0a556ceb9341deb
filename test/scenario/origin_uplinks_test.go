// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// uplinks is a server whose eth1 has the routers of two providers, each of which drops what has no source of its own.
type uplinks struct{ *topology.Uplinks }

func newUplinks(t *testing.T) uplinks {
	t.Helper()
	u := uplinks{traffic.Build(t, topology.NewUplinks)}
	traffic.ServeNICs(t, u.ClientEth0)
	return u
}

// network is a provider's.
func (u uplinks) network(provider int, f topology.Family) netip.Prefix {
	address := u.Inside[provider].Address(f)
	return netip.PrefixFrom(address, map[topology.Family]int{topology.IPv4: 24, topology.IPv6: 64}[f]).Masked()
}

// begin prepares a conversation that the server begins from its address of a provider.
func (u uplinks) begin(t *testing.T, provider int, f topology.Family, kind traffic.Kind) *traffic.Conversation {
	t.Helper()
	return traffic.NewConversation(t, kind, u.Own(provider), u.ClientEth0.Address(f))
}

// each runs a subtest for each family, kind of question and provider.
func (u uplinks) each(t *testing.T, name string, run func(*testing.T, *traffic.Conversation, int)) {
	traffic.EachQuestionOf(t, u.Families(), name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		for provider := range u.At {
			run(t, u.begin(t, provider, f, kind), provider)
		}
	})
}

// routeByAll gives the server default routes by both providers: IPv6 by their advertisements.
func (u uplinks) routeByAll(t *testing.T) {
	t.Helper()
	for provider, inside := range u.Inside {
		host.Shell(t, u.Server.Host, fmt.Sprintf("ip route add default via %s dev eth1 onlink metric 500%d", inside.Address(topology.IPv4), provider))
		u.advertise(t, provider)
	}
}

// advertise sends a provider's advertisement as a default router.
func (u uplinks) advertise(t *testing.T, provider int) {
	t.Helper()
	const sourceAddress, halfHour = 1, 1800
	inside := u.Inside[provider]
	advertisement := &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: halfHour,
		Options: layers.ICMPv6Options{{Type: sourceAddress, Data: inside.MAC}}}
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: linkLocalOf(t, inside).AsSlice(),
		DstIP: netip.IPv6LinkLocalAllNodes().AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterAdvertisement, 0)}
	await.Must(t, icmp.SetNetworkLayerForChecksum(ip))
	traffic.NewInjector(t, inside).Send(
		&layers.Ethernet{SrcMAC: inside.MAC, DstMAC: []byte{0x33, 0x33, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6}, ip, icmp, advertisement)
}

// explained is the MAC of the next hop that explain names for what the server begins from its address of a provider,
// or why not.
func (u uplinks) explained(p *product.Product, provider int, f topology.Family) string {
	e := p.Explain("--peer", u.ClientEth0.Address(f).String(), "--self", u.Own(provider).Address(f).String(), "--protocol", "udp")
	return e.Verdict + " " + product.OrEmpty(e.Replypath.NextHopMAC)
}

// await returns when explain names a router for what is sent from the addresses of each provider.
func (u uplinks) await(t *testing.T, p *product.Product, what string, router func(provider int, f topology.Family) int) {
	t.Helper()
	await.Eventually(t, what, func() error {
		for provider := range u.At {
			for _, f := range u.Families() {
				want := "strong-host " + u.Inside[router(provider, f)].MAC.String()
				if got := u.explained(p, provider, f); got != want {
					return fmt.Errorf("%s from %s: %s, not %s", f, u.Own(provider).Address(f), got, want)
				}
			}
		}
		return nil
	})
}

// wantOwn wants what the server begins to leave by the router of its source's provider, and to be answered.
func (u uplinks) wantOwn(t *testing.T, name string) {
	t.Helper()
	u.each(t, name, func(t *testing.T, c *traffic.Conversation, provider int) {
		exit{u.Server.NICs(), u.Server.Eth1, u.Inside[provider].MAC}.wantQuestions(t, c)
	})
}

// TestStrongHostUplinks has the server begin from the addresses of two providers, whose routers are both at eth1. As
// long as nothing tells which of them takes what, one gets everything, and drops what is the other's. Then IPv4
// networks and IPv6 routes for some sources tell. That outlives the daemon. A router that falls silent is not replaced
// by the other.
func TestStrongHostUplinks(t *testing.T) {
	u := newUplinks(t)
	u.routeByAll(t)
	byEth0 := exit{u.Server.NICs(), u.Server.Eth0, u.Server.Eth0.Peer().MAC}
	u.each(t, "without replypath", func(t *testing.T, c *traffic.Conversation, _ int) { byEth0.wantLost(t, c, c.Questions()) })

	p, d := product.StartOn(t, u.Server.Host, "--config", product.WriteConfig(t, "host_model: strong\n"))
	u.await(t, p, "one router gets everything", func(int, topology.Family) int { return 0 })
	byFirst := exit{u.Server.NICs(), u.Server.Eth1, u.Inside[0].MAC}
	u.each(t, "nothing tells", func(t *testing.T, c *traffic.Conversation, provider int) {
		if provider == 0 {
			byFirst.wantQuestions(t, c)
		} else {
			byFirst.wantLost(t, c, c.Questions())
		}
	})

	own := func(provider int, _ topology.Family) int { return provider }
	for provider := range u.At {
		address := u.Own(provider).Address(topology.IPv4)
		await.Must(t, u.Server.Eth1.AddAddress(netip.PrefixFrom(address, u.network(provider, topology.IPv4).Bits())))
		host.Shell(t, u.Server.Host, fmt.Sprintf("ip route add default from %s via %s dev eth1 table 8",
			u.network(provider, topology.IPv6), linkLocalOf(t, u.Inside[provider])))
	}
	host.Shell(t, u.Server.Host, "ip -6 rule add priority 40000 table 8") // after main's: the kernel goes on by eth0
	u.await(t, p, "each source has its router", own)
	u.wantOwn(t, "told")
	d.Kill()
	u.wantOwn(t, "daemon dead")
	p.Start("--config", d.Config)
	u.await(t, p, "each source has its router", own)
	u.wantOwn(t, "daemon back")

	u.silence(t, p, 1)
	u.each(t, "one router silent", func(t *testing.T, c *traffic.Conversation, provider int) {
		if provider == 0 {
			byFirst.wantQuestions(t, c)
		} else {
			byEth0.wantLost(t, c, c.Questions())
		}
	})
	if n := p.Metrics().Sum("replypath_originated_routed_packets_total", "to_interface=eth1", "reason=no_next_hop"); n == 0 {
		t.Error("nothing is counted as without a next hop")
	}
	u.speak(t, 1)
	u.await(t, p, "each source has its router again", own)
	u.wantOwn(t, "both there again")
}

// silence has a provider's router answer no question for its MAC any more, and the kernel give up.
func (u uplinks) silence(t *testing.T, p *product.Product, provider int) {
	t.Helper()
	inside := u.Inside[provider]
	host.Nft(t, u.At[provider].Host, silenceOf("inside"))
	for f, gateway := range map[topology.Family]netip.Addr{topology.IPv4: inside.Address(topology.IPv4), topology.IPv6: linkLocalOf(t, inside)} {
		await.Must(t, u.Server.SetSysctl("net/"+f.String()+"/neigh/eth1/retrans_time_ms", "100"))
		host.Shell(t, u.Server.Host, fmt.Sprintf("ip neighbour change %s lladdr %s dev eth1 nud probe", gateway, inside.MAC))
		await.Becomes(t, "what is explained", "fallback ", func() string { return u.explained(p, provider, f) })
	}
}

// speak has it answer again, ask for the server by IPv4, and advertise itself by IPv6.
func (u uplinks) speak(t *testing.T, provider int) {
	t.Helper()
	host.Nft(t, u.At[provider].Host, "delete table arp silence\ndelete table ip6 silence\n")
	host.Shell(t, u.At[provider].Host, "ip neighbour flush dev inside")
	_, err := u.At[provider].Ping(await.Within(t, await.AnswerTime), topology.Echo{To: u.Own(provider).Address(topology.IPv4)})
	await.Must(t, err)
	u.advertise(t, provider)
}
