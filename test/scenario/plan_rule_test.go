// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestPlanRuleInUse: a rule for an own address is said not to be needed only while nothing lives by it that this host opened. Then
// it is true.
func TestPlanRuleInUse(t *testing.T) {
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) { testPlanRuleInUse(t, f) })
	}
}

func testPlanRuleInUse(t *testing.T, f topology.Family) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{}) // whose routers drop what has the other's source
	server, client := n.Server.Eth1.Address(f), n.ClientEth0.Address(f)
	traffic.Serve(t, n.Client, client)
	p := product.On(t, n.Server.Host)
	ip, gateway := "ip", "10.2.0.1"
	if f == topology.IPv6 {
		ip, gateway = "ip -6", "2001:db8:2::1"
	}
	rule := fmt.Sprintf("priority 1000 from %s lookup 101", server)
	testhost.Shell(t, n.Server.Host, fmt.Sprintf("%s route add default via %s dev eth1 table 101; %s rule add %s", ip, gateway, ip, rule))
	testhost.Shell(t, n.Server.Host, "sysctl -qw net.ipv4.tcp_max_tw_buckets=0") // TIME_WAIT shows what was open for a minute
	want := func(verdict, text string) {
		t.Helper()
		wantRule(t, p.Plan(0).Of("rule", "rule 1000: from "+server.String()+" lookup 101"), verdict, text)
	}
	const nothing = "replypath sends the replies, and this host opened nothing from "
	want("not-needed", nothing)

	stream := traffic.NewConversation(t, traffic.TCP, n.Server.Eth1, client)
	traffic.Ask(t, stream)
	want("needed", "this host has 1 connection open from "+server.String())
	p.Start("--observe", "--config", product.WriteConfig(t, "related: false\n"))
	asked := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, server) // is none that the host opened
	traffic.Ask(t, asked)
	p.Expect(0, "mode", "enforce")
	want("needed", "this host has 1 connection open from "+server.String())
	datagrams := traffic.NewConversation(t, traffic.UDP, n.Server.Eth1, client)
	traffic.Ask(t, datagrams)
	want("needed", "this host has 2 connections open from "+server.String())
	traffic.Ask(t, stream)

	await.Must(t, stream.Close())
	await.Must(t, datagrams.Close())
	await.Eventually(t, "the end of what used the rule", func() error {
		if r := p.Plan(0).Of("rule", "rule 1000: "); r.Verdict != "not-needed" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	want("not-needed", nothing+server.String())
	route := fmt.Sprintf("%s route replace default via %s dev eth1 table 101", ip, gateway)
	testhost.Shell(t, n.Server.Host, route+" mtu 1400")
	want("needed", fmt.Sprintf("default via %s dev eth1 table 101", gateway))
	testhost.Shell(t, n.Server.Host, route)
	// It is so: without the rule answers arrive. What the host opens itself would not.
	testhost.Shell(t, n.Server.Host, ip+" rule del "+rule)
	traffic.Ask(t, asked)
	again := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, server)
	traffic.Ask(t, again)
	lost := traffic.NewConversation(t, traffic.TCP, n.Server.Eth1, client)
	if err := lost.Ask(await.Within(t, await.SilenceTime)); err == nil {
		t.Error("what the host opens from the address does without the rule, so that it proves nothing")
	}
}

// TestPlanRuleOfNetwork: datagrams of a socket that is not connected are seen by what the kernel tracks, and sockets of an address
// that only the rule tells of, as lo has it.
func TestPlanRuleOfNetwork(t *testing.T) {
	n, p := server.New(t)
	client := n.ClientEth0.Address(topology.IPv4)
	traffic.Serve(t, n.Client, client)
	testhost.Shell(t, n.Server.Host, `
ip address add 10.2.0.9/32 dev lo
ip route add default via 10.2.0.1 dev eth1 table 101
ip rule add priority 1000 from 10.2.0.0/24 lookup 101
nft add table inet t
nft add chain inet t out '{ type filter hook output priority 0; }'
nft add rule inet t out ct state established accept
`)
	p.Start()
	want := func(verdict, text string) {
		t.Helper()
		wantRule(t, p.Plan(0).Of("rule", "rule 1000: "), verdict, text)
	}
	want("not-needed", "this host opened nothing from 10.2.0.0/24")
	at, err := n.Server.NewPinger(t.Context(), topology.Echo{To: client, From: netip.MustParseAddr("10.2.0.9")})
	await.Must(t, err)
	want("needed", "1 socket of this host may send first from 10.2.0.0/24")
	await.Must(t, at.Close())
	ping := traffic.NewConversation(t, traffic.Ping, n.Server.Eth1, client)
	traffic.Ask(t, ping)
	want("needed", "this host has 1 connection open from 10.2.0.0/24")
}
