// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// forget has a host's connection tracking forget everything.
func forget(t *testing.T, h *topology.Host) {
	t.Helper()
	await.Must(t, h.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }))
}

// TestForgotten has connection tracking forget conversations of eth1. They go on by eth1, also beside Docker's rule. A rule
// that translates all that leaves by eth0 takes them: doctor says so, and what it has to spare.
func TestForgotten(t *testing.T) {
	const (
		tracking = "table inet tracking { chain in { type filter hook input priority 0; ct state new accept; }; }"
		docker   = `table ip docker { chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }; }`
		all      = `table inet own { chain post { type nat hook postrouting priority 100; oifname "eth0" %s masquerade; }; }`
	)
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) {
			n, p := server.New(t)
			host.Nft(t, n.Server.Host, tracking+"\n"+docker)
			p.Start("--listen", "")
			speakers := server.NewSpeakers(t, n.Client, n.Server.Host, n.Server.Eth1.Address(f))
			wantHeard := func(what string) {
				t.Helper()
				for _, s := range speakers {
					wires := wire.Tap(t, n.Server)
					s.Say()
					wires.WantEth1(what, s.Said)
				}
			}
			forget(t, n.Server.Host)
			wantHeard("forgotten, with a rule of Docker's")
			onlyOne(t, p.Doctor(0), "masquerade", "", "ok")

			host.Nft(t, n.Server.Host, fmt.Sprintf(all, ""))
			self := n.Server.Eth1.Address(f).String()
			found := onlyOne(t, p.Doctor(0), "masquerade", "eth0", "warning", "inet own post, rule ", "leaves by eth0", self)
			wantHeard("tracked")
			forget(t, n.Server.Host)
			for _, s := range speakers {
				wires := wire.Tap(t, n.Server)
				await.Must(t, s.Speak())
				translated := topology.All(topology.From(n.Server.Eth0.Address(f)), topology.FromPort(s.Self.Port()))
				if _, err := wires.Eth0.Wait(await.Within(t, await.AnswerTime), translated); err != nil {
					t.Errorf("%s is not translated: %v", s.Self, err)
				}
				if eth0, eth1 := wires.Left(topology.From(s.Self.Addr())); len(eth0)+len(eth1) > 0 {
					t.Errorf("left with its own source: %s%s", wire.Describe(eth0), wire.Describe(eth1))
				}
			}

			_, condition, _ := strings.Cut(product.OrEmpty(found.Inspect), "  # spare them by ")
			host.Nft(t, n.Server.Host, "delete table inet own; "+fmt.Sprintf(all, condition))
			if found := p.Doctor(0).Of("masquerade", "eth0").With("warning", self); len(found) > 0 {
				t.Errorf("found after %q: %+v", condition, found)
			}
			speakers = server.NewSpeakers(t, n.Client, n.Server.Host, n.Server.Eth1.Address(f)) // as TCP was reset
			forget(t, n.Server.Host)
			wantHeard("spared")
		})
	}
}

// killSwitches let nothing pass but by eth1. Those of nftables let neighbours be found, and can spare answers.
var killSwitches = map[string]struct {
	script string
	chains []string
	spare  string
	undo   string
}{
	"drop":          {killSwitch(`%s icmpv6 type 133-136 accept; oifname "eth0" drop`), []string{"inet kill out, rule "}, "ip saddr 10.2.0.100 accept; ip6 saddr 2001:db8:2::100 accept;", noTable},
	"reject others": {killSwitch(`%s icmpv6 type 133-136 accept; oifname != { "lo", "eth1" } reject`), []string{"inet kill out, rule "}, "ct state established accept;", noTable},
	"policy":        {killSwitch(`policy drop; %s icmpv6 type 133-136 accept; oifname "eth1" accept`), []string{"inet kill out, its policy"}, "ct state vmap { established : accept, invalid : drop };", noTable},
	"iptables": {`for i in iptables ip6tables; do $i -I OUTPUT ! -o eth1 -m mark ! --mark 0xca6c -m addrtype ! --dst-type LOCAL -j REJECT; done; : %s`,
		[]string{"ip filter OUTPUT, rule ", "ip6 filter OUTPUT, rule "}, "", "for i in iptables ip6tables; do $i -D OUTPUT 1; done"},
}

const noTable = "nft delete table inet kill"

func killSwitch(rules string) string {
	return "nft 'table inet kill { chain out { type filter hook output priority 0; " + rules + "; }; }'"
}

// TestKillSwitch has one chain after the other drop what the kernel routes by eth0: answers of eth1 do not get to where they are
// moved. Doctor says so, and no more once the chain lets them pass.
func TestKillSwitch(t *testing.T) {
	n, p := server.New(t)
	p.Start("--listen", "")
	for name, k := range killSwitches {
		t.Run(name, func(t *testing.T) {
			p := p.In(t)
			for _, f := range n.Families() {
				talks(t, n, f, true)
			}
			onlyOne(t, p.Doctor(0), "outgoing-interface-rules", "", "ok")

			host.Shell(t, n.Server.Host, fmt.Sprintf(k.script, ""))
			defer host.Shell(t, n.Server.Host, k.undo)
			all := p.Doctor(3)
			for _, chain := range k.chains {
				onlyOne(t, all, "outgoing-interface-rules", "eth0", "error", chain, "replies of eth1 are dropped: ")
			}
			for _, f := range n.Families() {
				for _, kind := range traffic.Kinds {
					c, wires := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)), wire.Tap(t, n.Server)
					if err := wire.AskUntilLost(t, c, wires.Eth1, c.Questions()); err == nil {
						t.Errorf("%s was answered", c)
					}
					if eth0, eth1 := wires.Left(c.Answers()); len(eth0)+len(eth1) > 0 {
						t.Errorf("%s: left: %s%s", c, wire.Describe(eth0), wire.Describe(eth1))
					}
				}
			}
			if k.spare == "" {
				return
			}
			host.Shell(t, n.Server.Host, k.undo+"; "+fmt.Sprintf(k.script, k.spare))
			for _, f := range n.Families() {
				talks(t, n, f, true)
			}
			if found := p.Doctor(0).Of("outgoing-interface-rules", "eth0"); len(found) > 0 {
				t.Errorf("found where answers pass: %+v", found)
			}
		})
	}
}
