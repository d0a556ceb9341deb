// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestRuleInUse: a rule for an own address is said not to be needed only once replypath corrects replies, and nothing
// lives by it that this host opened. Then it is true.
func TestRuleInUse(t *testing.T) {
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) { testRuleInUse(t, f) })
	}
}

func testRuleInUse(t *testing.T, f topology.Family) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{}) // whose routers drop what has the other's source
	server, client := n.Server.Eth1.Address(f), n.ClientEth0.Address(f)
	traffic.Serve(t, n.Client, client)
	p := product.On(t, n.Server.Host)
	ip, gateway := "ip", "10.2.0.1"
	if f == topology.IPv6 {
		ip, gateway = "ip -6", "2001:db8:2::1"
	}
	rule := fmt.Sprintf("priority 1000 from %s lookup 101", server)
	host.Shell(t, n.Server.Host, fmt.Sprintf("%s route add default via %s dev eth1 table 101; %s rule add %s", ip, gateway, ip, rule))
	want := func(severity, text string) {
		t.Helper()
		found := onlyOne(t, p.Doctor(0), "needless-rules", "eth1", severity, "rule 1000: from "+server.String()+" lookup 101 "+text)
		wantSeen(t, n, found, ip+" rule show")
	}
	const waits = "is needed: replypath does not enforce on all interfaces"
	want("ok", waits)

	stream := traffic.NewConversation(t, traffic.TCP, n.Server.Eth1, client)
	traffic.Ask(t, stream)
	want("ok", "is needed: this host has 1 connection open from "+server.String())
	p.Start("--observe", "--config", product.WriteConfig(t, "related: false\n"))
	asked := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, server) // is none that the host opened
	traffic.Ask(t, asked)
	want("ok", "is needed: this host has 1 connection open from "+server.String())
	p.Expect(0, "mode", "enforce")
	want("ok", "is needed: this host has 1 connection open from "+server.String())
	datagrams := traffic.NewConversation(t, traffic.UDP, n.Server.Eth1, client)
	traffic.Ask(t, datagrams)
	want("ok", "is needed: this host has 2 connections open from "+server.String())
	traffic.Ask(t, stream)

	await.Must(t, stream.Close())
	await.Must(t, datagrams.Close())
	await.Eventually(t, "the end of what used the rule", func() error {
		if left := p.Examine().Of("needless-rules", "eth1").With("note"); len(left) != 1 {
			return fmt.Errorf("%+v", p.Examine().Of("needless-rules", ""))
		}
		return nil
	})
	want("note", "is not needed: replypath sends the replies, and this host opened nothing from "+server.String())
	route := fmt.Sprintf("%s route replace default via %s dev eth1 table 101", ip, gateway)
	host.Shell(t, n.Server.Host, route+" mtu 1400")
	want("ok", fmt.Sprintf("is needed: default via %s dev eth1 table 101", gateway))
	host.Shell(t, n.Server.Host, route)
	// It is so: without the rule answers arrive. What the host opens itself would not.
	host.Shell(t, n.Server.Host, ip+" rule del "+rule)
	traffic.Ask(t, asked)
	again := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, server)
	traffic.Ask(t, again)
	lost := traffic.NewConversation(t, traffic.TCP, n.Server.Eth1, client)
	if err := lost.Ask(await.Within(t, await.SilenceTime)); err == nil {
		t.Error("what the host opens from the address does without the rule, so that it proves nothing")
	}
}

// TestRuleUsedByTracked: datagrams of a socket that is not connected are seen by what the kernel tracks.
func TestRuleUsedByTracked(t *testing.T) {
	n, p := server.New(t)
	traffic.Serve(t, n.Client, n.ClientEth0.Address(topology.IPv4))
	host.Shell(t, n.Server.Host, `
ip route add default via 10.2.0.1 dev eth1 table 101
ip rule add priority 1000 from 10.2.0.100 lookup 101
nft add table inet t
nft add chain inet t out '{ type filter hook output priority 0; }'
nft add rule inet t out ct state established accept
`)
	p.Start()
	onlyOne(t, p.Doctor(0), "needless-rules", "eth1", "note", "is not needed")
	ping := traffic.NewConversation(t, traffic.Ping, n.Server.Eth1, n.ClientEth0.Address(topology.IPv4))
	traffic.Ask(t, ping)
	onlyOne(t, p.Doctor(0), "needless-rules", "eth1", "ok", "is needed: this host has 1 connection open from 10.2.0.100")
}
