// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/netfilter"
	"replypath/test/await"
	"replypath/test/testhost"
	"replypath/test/topology"
)

// The chains in which tests decide on answers.
const (
	output = "table inet t { chain out { type filter hook output priority 0; policy %s; %s; }; }"
	nat    = "table inet t { chain post { type nat hook postrouting priority 100; %s; }; }"
)

func out(policy, rules string) string { return fmt.Sprintf(output, policy, rules) }

// TestRefusedAnswers has nft and iptables load filters, and asks of answers whether they are dropped: those that are said to be meant.
func TestRefusedAnswers(t *testing.T) {
	byEth0 := func(answer string) bool { return strings.HasSuffix(answer, "eth0") }
	nowhere := func(string) bool { return false }
	wantDecided(t, (*netfilter.Walker).Refused, map[string]func(answer string) bool{
		out("accept", `oifname "eth0" drop`):                                                                                             byEth0,
		out("accept", `oif eth0 reject`):                                                                                                 byEth0,
		out("accept", `oifname != "eth1" counter drop`):                                                                                  byEth0,
		out("accept", `oifname != { "lo", "eth1" } drop`):                                                                                byEth0,
		out("drop", `oifname "lo" accept; log prefix "x"; oifname "eth1" accept`):                                                        byEth0,
		out("drop", `oifname { "lo", "eth1" } accept`):                                                                                   byEth0,
		out("drop", `oifname vmap { "lo" : accept, "eth1" : accept }`):                                                                   byEth0,
		out("drop", `ip saddr 10.2.0.99-10.2.0.101 accept; ip6 saddr >= 2001:db8:2:: accept; oifname "eth0" accept`):                     nowhere,
		out("accept", `meta mark != 0xca6c fib daddr type != local oifname != "eth1" reject`):                                            byEth0,
		out("accept", `meta l4proto { tcp, udp } oifname "eth0" drop`):                                                                   byEth0,
		out("accept", `oifname . ip saddr { "eth0" . 10.2.0.100 } drop`):                                                                 func(a string) bool { return a == "udp4 eth0" || a == "tcp4 eth0" },
		out("accept", `ip6 saddr 2001:db8:2::/48 oifname "eth0" drop`):                                                                   func(a string) bool { return a == "udp6 eth0" || a == "tcp6 eth0" },
		out("accept", `meta l4proto udp oifname "eth0" drop`):                                                                            func(a string) bool { return a == "udp4 eth0" || a == "udp6 eth0" },
		out("accept", `ip saddr { 10.1.0.0/16, 10.2.0.0/25, 10.3.0.0-10.4.255.255 } drop`):                                               func(a string) bool { return strings.Contains(a, "4") },
		out("accept", `ip saddr { 10.1.0.0/16, 10.2.0.0/26, 10.2.0.101-10.4.255.255 } drop`):                                             nowhere,
		out("accept", `meta nfproto ipv6 drop`):                                                                                          func(a string) bool { return strings.Contains(a, "6") },
		out("drop", `ct state established,related accept`):                                                                               nowhere,
		out("drop", `ct state vmap { established : accept, invalid : drop }`):                                                            nowhere,
		out("drop", `ct state != new accept`):                                                                                            nowhere,
		out("accept", `ct state invalid drop; ct state new oifname "eth0" drop`):                                                         nowhere,
		out("accept", `tcp dport 25 oifname "eth0" drop; meta skuid 7 drop`):                                                             nowhere,
		out("accept", `ip daddr 10.9.0.0/16 drop; ip daddr { 192.0.2.1 } oifname "eth0" drop`):                                           nowhere,
		out("accept", `meta mark 7 oifname "eth0" drop; ct mark & 1 == 1 drop`):                                                          nowhere,
		out("accept", `meta mark set 7; meta mark 7 oifname "eth0" drop`):                                                                byEth0,
		out("accept", `tcp flags & syn == syn oifname "eth0" drop; limit rate 5/second drop`):                                            nowhere,
		out("accept", `iifname "eth0" drop; oifname "eth0*" ip saddr != 10.2.0.100 return`):                                              nowhere,
		out("accept", `oifname "eth0" return; drop`):                                                                                     func(a string) bool { return !byEth0(a) },
		"table ip t { chain x { oifname eth0 drop; }; chain out { type filter hook output priority 0; jump x; }; }":                      func(a string) bool { return a == "tcp4 eth0" || a == "udp4 eth0" },
		"table inet t { chain x { oifname eth1 accept; }; chain out { type filter hook output priority 0; policy drop; goto x; }; }":     byEth0,
		"table inet t { chain x { oifname eth0 drop; }; }":                                                                               nowhere,
		"table inet t { chain x { type filter hook forward priority 0; policy drop; }; }":                                                nowhere,
		"table inet t { chain x { type filter hook postrouting priority 0; oifname eth0 drop; }; }":                                      byEth0,
		"table netdev t { chain x { type filter hook egress device eth0 priority 0; ip saddr 10.2.0.100 drop; }; }":                      func(a string) bool { return a == "tcp4 eth0" || a == "udp4 eth0" },
		"*filter\n-A OUTPUT ! -o eth1 -m mark ! --mark 0xca6c -m addrtype ! --dst-type LOCAL -j REJECT\nCOMMIT\n":                        byEth0,
		"*filter\n-A OUTPUT -o eth0 -m comment --comment x -m addrtype --src-type LOCAL -j DROP\nCOMMIT\n":                               byEth0,
		"*filter\n:OUTPUT DROP\n-A OUTPUT -o lo -j ACCEPT\n-A OUTPUT -o eth1 -j ACCEPT\n-A OUTPUT -p udp --dport 53 -j ACCEPT\nCOMMIT\n": byEth0,
		"*filter\n:OUTPUT DROP\n-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n":                                nowhere,
		"*filter\n:OUTPUT DROP\n-A OUTPUT -m state --state ESTABLISHED -j ACCEPT\nCOMMIT\n":                                              nowhere,
		"*filter\n-A OUTPUT -o eth0 -m conntrack --ctstate NEW -j DROP\n-A OUTPUT -o eth0 -m mark --mark 1 -j DROP\nCOMMIT\n":            nowhere,
		"*filter\n-A OUTPUT -o eth0 -m owner --uid-owner 7 -j DROP\n-A OUTPUT -p tcp -m multiport --sports 7 -j DROP\nCOMMIT\n":          nowhere,
		"*mangle\n-A OUTPUT -j MARK --set-mark 1\n-A OUTPUT -m mark --mark 0 -j DROP\nCOMMIT\n":                                          nowhere,
	})
}

// TestTranslatedAnswers has nft and iptables load translations, and asks which of the answers get another source that connection
// tracking does not know.
func TestTranslatedAnswers(t *testing.T) {
	byEth0 := func(answer string) bool { return strings.HasSuffix(answer, "eth0") }
	ipv4 := func(answer string) bool { return byEth0(answer) && strings.Contains(answer, "4") }
	nowhere := func(string) bool { return false }
	post := func(rules string) string { return fmt.Sprintf(nat, rules) }
	wantDecided(t, (*netfilter.Walker).Translated, map[string]func(answer string) bool{
		post(`oifname "eth0" masquerade`):                                        byEth0,
		post(`oif eth0 counter masquerade random`):                               byEth0,
		post(`oifname != "eth1" masquerade`):                                     byEth0,
		post(`oifname "eth0" snat ip to 10.1.0.100`):                             ipv4,
		post(`oifname "eth0" ip daddr != 10.0.0.0/8 masquerade`):                 ipv4,
		post(`oifname "eth0" ip saddr 10.0.0.0/8 masquerade`):                    ipv4,
		post(`oifname "eth0" ip saddr 172.17.0.0/16 masquerade`):                 nowhere,
		post(`oifname "eth0" ip saddr != 10.2.0.100 masquerade`):                 nowhere,
		post(`oifname "eth0" ip saddr != { 10.2.0.100, 10.2.0.101 } masquerade`): nowhere,
		post(`oifname "eth0" ip daddr 10.9.0.0/16 masquerade`):                   nowhere,
		post(`oifname "eth0" iifname "docker0" masquerade`):                      nowhere,
		post(`oifname "eth0" fib saddr type != local masquerade`):                nowhere,
		post(`oifname "eth0" accept; masquerade`):                                func(a string) bool { return !byEth0(a) },
		"table inet t { set own { type ipv4_addr; elements = { 10.2.0.100 }; }; chain post { type nat hook postrouting priority 100; ip saddr @own return; oifname eth0 masquerade; }; }": func(a string) bool { return byEth0(a) && !ipv4(a) },
		"table inet t { chain post { type filter hook postrouting priority 100; oifname eth0 meta mark set 1; }; }":                                                                       nowhere,
		"*nat\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n":                                                                                               byEth0,
		"*nat\n-A POSTROUTING -o eth0 -m comment --comment x -m addrtype ! --dst-type LOCAL -j MASQUERADE\nCOMMIT\n":                                         byEth0,
		"*nat\n:x - [0:0]\n-A POSTROUTING -j x\n-A x -o eth0 -j MASQUERADE --random-fully\nCOMMIT\n":                                                         byEth0,
		"*nat\n:x - [0:0]\n-A POSTROUTING -j x\n-A x -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A x -j MARK --xor-mark 0x4000\n-A x -j MASQUERADE\nCOMMIT\n": nowhere, // kube-proxy
		"*nat\n-A POSTROUTING -m mark --mark 0x40000/0xff0000 -j MASQUERADE\n-A POSTROUTING -m addrtype --src-type UNICAST -j MASQUERADE\nCOMMIT\n":          nowhere, // Tailscale
	})
}

// wantDecided wants the answers that are meant to have a fate, and no others.
func wantDecided(t *testing.T, ask func(*netfilter.Walker, *netfilter.Sent) *netfilter.Fate, firewalls map[string]func(answer string) bool) {
	_, host := testhost.NewNetwork(t)
	for rules, isMeant := range firewalls {
		testhost.Run(t, host, "flush ruleset", "nft", "-f", "-")
		programs := []string{"nft -f -"}
		if strings.HasPrefix(rules, "*") {
			programs = []string{"iptables-restore", "ip6tables-restore"}
		}
		for _, program := range programs {
			words := strings.Fields(program)
			testhost.Run(t, host, rules, words[0], words[1:]...)
		}
		var f netfilter.Ruleset
		await.Must(t, host.Do(func() error { return netfilter.Read(&f, nil) }))
		for answer, sent := range answers(t, host) {
			if fate := ask(f.Walker(), &sent); (fate != nil) != isMeant(answer) {
				t.Errorf("%s: %+v\n%s", answer, fate, rules)
			}
		}
	}
}

// answers are some of a host, by protocol, family and interface.
func answers(t *testing.T, host *topology.Host) map[string]netfilter.Sent {
	t.Helper()
	all := map[string]netfilter.Sent{}
	for _, device := range []string{"eth0", "eth1"} {
		link := await.Must1[netlink.Link](t)(host.Netlink().LinkByName(device))
		for name, source := range map[string]string{"4": "10.2.0.100", "6": "2001:db8:2::100"} {
			for word, protocol := range map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP} {
				all[word+name+" "+device] = netfilter.Sent{Source: netip.MustParseAddr(source), Device: device, Index: link.Attrs().Index, Protocol: protocol}
			}
		}
	}
	return all
}
