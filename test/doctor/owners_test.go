// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// connmarks is what somebody typed so that answers go back by eth1, by the mark 0x1.
const connmarks = `
for family in -4 -6; do ip $family rule add priority 900 fwmark 0x1 lookup 101; done
ip route add default via 10.2.0.1 dev eth1 table 101
ip -6 route add default via 2001:db8:2::1 dev eth1 table 101
nft add table inet marks
nft add chain inet marks in '{ type filter hook prerouting priority -150; }'
nft add chain inet marks out '{ type route hook output priority -150; }'
nft add rule inet marks in iifname eth1 ct mark set 0x1
nft add rule inet marks out ct mark 0x1 meta mark set ct mark
`

// TestRulesOfOthers has doctor look at a host with rules as a program installs them, beside marks of somebody else's:
// none of its rules is said to be needless or in the way, what is said names it, and nothing is told to be changed.
func TestRulesOfOthers(t *testing.T) {
	for _, program := range []struct {
		*host.Neighbour
		about []string // beginnings of what stands in its rules
		says  map[string]string
	}{
		{host.Tailscale, []string{"0x80000", "lookup 52"}, nil},
		{host.Cilium, []string{"0xe00", "0x200", "0xa00", "0xb00", "fwmark 0x80", "10.66.0.7"}, map[string]string{
			"default via 10.66.0.1 dev cilium_host table 2005 has a gateway that is this host itself, as Cilium has it": "ip route show table 2005",
		}},
	} {
		t.Run(program.Name, func(t *testing.T) {
			n := newServer(t)
			p := product.On(t, n.Server.Host)
			host.Shell(t, n.Server.Host, connmarks)
			program.Install(t, n)
			before := host.Made(t, n.Server.Host)
			look := func() product.Findings {
				all := p.Examine()
				for _, f := range all {
					for _, words := range program.about {
						if strings.Contains(f.Found, words) && (f.Fix != nil || product.OrEmpty(f.Owner) != program.Name || f.Severity != "ok") {
							t.Errorf("about %s of %s: %+v", words, program.Name, f)
						}
					}
				}
				for words, inspect := range program.says {
					found := ofText(all, words)
					if len(found) == 0 || found[0].Fix != nil || product.OrEmpty(found[0].Inspect) != inspect || product.OrEmpty(found[0].Owner) != program.Name {
						t.Errorf("not %q with %q of %s: %+v", words, inspect, program.Name, found)
					}
				}
				return all
			}
			look()
			p.Start()
			all := look()
			// The rule by the mark that somebody did give is told from the others.
			if found := all.Of("needless-rules", "eth1").With("ok", "rule 900: from all fwmark 0x1 lookup 101 is needed: this host forwards"); len(found) != 2 {
				t.Errorf("not one finding for each family: %+v", all.Of("needless-rules", ""))
			}
			p.Expect(0, "detach", "--stop")
			if after := host.Made(t, n.Server.Host); after != before {
				t.Errorf("the host was changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// ofText returns the findings that have some words.
func ofText(all product.Findings, words string) product.Findings {
	var found product.Findings
	for _, f := range all {
		if strings.Contains(f.Found, words) {
			found = append(found, f)
		}
	}
	return found
}

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
	n := newServer(t)
	traffic.Serve(t, n.Client, n.ClientEth0.Address(topology.IPv4))
	p := product.On(t, n.Server.Host)
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
