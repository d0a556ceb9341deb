// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"replypath/loader/netfilter"
	"replypath/test/await"
	"replypath/test/testhost"
	"replypath/test/topology"
)

// TestReadFirewall has nft load rules and reads them back.
func TestReadFirewall(t *testing.T) {
	_, host := testhost.NewNetwork(t)
	var none netfilter.Ruleset
	await.Must(t, host.Do(func() error { return netfilter.Read(&none, nil) }))
	await.Same(t, "read where nothing is", netfilter.Ruleset{}, none)
	testhost.Run(t, host, `
table inet filter {
	chain pre {
		type filter hook prerouting priority filter
		fib saddr . iif oif missing drop
		iifname "eth1" fib saddr . mark . iif oif 0 reject
		fib saddr oif missing drop
		fib daddr . iif type local accept
	}
	chain output {
		type filter hook output priority filter; policy accept
		ip daddr 192.0.2.1 jump more
		meta mark set ct mark
		oifname { "eth0", "eth1" } accept
	}
	chain more {
		oifname "eth0" drop
		oif "eth1" accept
		oifname "et*" accept
		oifname != "eth0" accept
		ip saddr 192.0.2.1 accept
	}
	chain unused { oifname "eth0" drop; }
}
table ip nat {
	chain pre {
		type nat hook prerouting priority dstnat
		ip daddr 192.0.2.1 dnat to 10.4.0.7
	}
	chain post {
		type nat hook postrouting priority srcnat
		oifname "eth0" masquerade
	}
}
table netdev t {
	chain in { type filter hook ingress device "eth1" priority 0; }
}
`, "nft", "-f", "-")
	got := readChains(t, host)
	output := []string{"output"}
	want := map[string]netfilter.Chain{
		"inet filter pre": {Family: "inet", Table: "filter", Name: "pre", Type: "filter", Hooks: []string{"prerouting"}, Rules: []netfilter.Rule{
			{ReversePath: true, Refuses: true}, {ReversePath: true, Refuses: true, In: []string{"eth1"}},
		}},
		"inet filter output": {Family: "inet", Table: "filter", Name: "output", Type: "filter", Hooks: output, Rules: []netfilter.Rule{
			{Destination: netfilter.Destination{Jumps: []string{"more"}, To: testhost.Prefixes("192.0.2.1/32")}}, {Restores: true}, {OutUnknown: true},
		}},
		"inet filter more": {Family: "inet", Table: "filter", Name: "more", Type: "filter", Hooks: output, Rules: []netfilter.Rule{
			{OutNames: []string{"eth0"}, Refuses: true}, {OutNames: []string{"eth1"}}, {OutNames: []string{"et*"}}, {OutNames: []string{"*"}},
		}},
		"inet filter unused": {Family: "inet", Table: "filter", Name: "unused", Rules: []netfilter.Rule{{OutNames: []string{"eth0"}, Refuses: true}}},
		"ip nat pre": {Family: "ip", Table: "nat", Name: "pre", Type: "nat", Hooks: []string{"prerouting"}, Rules: []netfilter.Rule{
			{Destination: netfilter.Destination{Translates: true, To: testhost.Prefixes("192.0.2.1/32")}},
		}},
		"ip nat post": {Family: "ip", Table: "nat", Name: "post", Type: "nat", Hooks: []string{"postrouting"}, Rules: []netfilter.Rule{{OutNames: []string{"eth0"}}}},
		"netdev t in": {Family: "netdev", Table: "t", Name: "in", Type: "filter", Hooks: []string{"ingress"}},
	}
	await.Same(t, "read", want, got)
}

// readChains reads a host's chains, by name, and leaves out the handles of rules, which it wants to be there.
func readChains(t *testing.T, host *topology.Host) map[string]netfilter.Chain {
	t.Helper()
	names := map[int]string{}
	for _, name := range []string{"eth0", "eth1"} {
		link := await.Must1[netlink.Link](t)(host.Netlink().LinkByName(name))
		names[link.Attrs().Index] = name
	}
	var f netfilter.Ruleset
	await.Must(t, host.Do(func() error { return netfilter.Read(&f, func(index int) string { return names[index] }) }))
	chains := map[string]netfilter.Chain{}
	for _, c := range f.Chains {
		for n := range c.Rules {
			if c.Rules[n].Handle == 0 {
				t.Errorf("%s: rule %d has no handle", c.String(), n)
			}
			c.Rules[n].Handle = 0
		}
		chains[c.String()] = c
	}
	return chains
}

// TestReadMarks has nft and iptables load rules about marks, and reads which they give, compare and bring back.
func TestReadMarks(t *testing.T) {
	_, host := testhost.NewNetwork(t)
	testhost.Run(t, host, `
table inet marks {
	chain nft {
		type route hook output priority mangle
		ct mark 0x61 meta mark set ct mark
		ct mark & 0xff == 0x62 meta mark set ct mark
		iifname "eth1" ct mark set 0x63
		meta mark set 0x64
		meta mark set ct mark & 0xff0000
		meta mark set iifname map { "eth1" : 0x68, "eth2" : 0x69 }
		ct mark set iifname map { "eth1" : 0x68, "eth2" : 0x69 }
		ct mark set meta mark
		meta mark set ct mark | 0x2
	}
}
`, "nft", "-f", "-")
	testhost.Run(t, host, `*mangle
-A OUTPUT -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
-A OUTPUT -j CONNMARK --save-mark
-A OUTPUT -j CONNMARK --set-mark 0x65
-A OUTPUT -m connmark --mark 0x66 -j ACCEPT
-A OUTPUT -j MARK --set-mark 0x67
-A OUTPUT -o eth1 -j ACCEPT
COMMIT
`, "iptables-restore")
	got := readChains(t, host)
	want := map[string][]netfilter.Rule{
		"inet marks nft": {
			{Restores: true, Marks: []uint32{0x61}}, {Restores: true, Marks: []uint32{0x62}},
			{In: []string{"eth1"}, Marks: []uint32{0x63}, Gives: []uint32{0x63}}, {Marks: []uint32{0x64}, Gives: []uint32{0x64}}, {Restores: true},
			{GivesUnknown: true}, {GivesUnknown: true}, {Restores: true, GivesUnknown: true},
		},
		"ip mangle OUTPUT": {
			{Restores: true}, {Marks: []uint32{0x65}, Gives: []uint32{0x65}}, {Marks: []uint32{0x66}}, {Marks: []uint32{0x67}, Gives: []uint32{0x67}}, {OutNames: []string{"eth1"}},
		},
	}
	for name, rules := range want {
		await.Same(t, name, rules, got[name].Rules)
	}
}

// translating is a chain that translates, between others.
func translating(rules string) string {
	return "table inet t {\n" + rules + "\n}"
}

// TestTranslated has nft and iptables load rules, and reads which destinations they translate.
func TestTranslated(t *testing.T) {
	const pre = "chain pre { type nat hook prerouting priority dstnat;\n"
	const proxy = "chain pre { type filter hook prerouting priority mangle;\n"
	for _, test := range []struct{ name, program, rules, want string }{
		{"an address", "nft", pre + "ip daddr 198.51.100.7 tcp dport 80 dnat ip to 10.0.0.5; ip6 daddr 2001:db8:9::5 dnat ip6 to 2001:db8:17::5; }",
			"198.51.100.7/32 2001:db8:9::5/128"},
		{"networks", "nft", pre + `ip daddr 198.51.100.0/24 redirect; ip daddr 203.0.113.16/28 redirect
			ip6 daddr 2001:db8:9::/64 redirect; ip6 daddr 2001:db8:a::/52 redirect; }`,
			"198.51.100.0/24 203.0.113.16/28 2001:db8:9::/64 2001:db8:a::/52"},
		{"a range", "nft", pre + "ip daddr 198.51.100.4-198.51.100.9 redirect; }", "198.51.100.4/30 198.51.100.8/31"},
		{"any destination", "nft", pre + "tcp dport 80 dnat ip to 10.0.0.5; fib daddr type local redirect; }", ""},
		{"any other", "nft", pre + "ip daddr != 198.51.100.7 redirect; ip daddr != { 198.51.100.8, 198.51.100.9 } redirect; }", ""},
		{"sources", "nft", pre + "ip saddr 198.51.100.7 redirect; ip saddr . tcp dport { 198.51.100.7 . 80 } redirect; }", ""},
		{"what is only refused", "nft", pre + "ip daddr 198.51.100.7 drop; }", ""},
		{"the host's own packets", "nft", "chain out { type nat hook output priority -100; ip daddr 198.51.100.7 redirect; }", ""},
		{"no addresses of hosts, and too many", "nft", pre + "ip daddr { 127.0.0.1, 169.254.169.254, 224.0.0.1, 10.0.0.0/8 } redirect; ip6 daddr 2000::/3 redirect; }", ""},
		{"a proxy", "nft", proxy + "ip daddr 198.51.100.7 tcp dport 80 tproxy ip to 127.0.0.1:3128; }", "198.51.100.7/32"},
		{"a set", "nft", `set vips { type ipv4_addr; elements = { 198.51.100.7, 198.51.100.9 }; }
			set six { type ipv6_addr; flags interval; elements = { 2001:db8:9::/64, 2001:db8:a::1-2001:db8:a::2 }; }
` +
			pre + "ip daddr @vips redirect; ip6 daddr @six redirect; }",
			"198.51.100.7/32 198.51.100.9/32 2001:db8:9::/64 2001:db8:a::1/128 2001:db8:a::2/128"},
		{"neighbouring intervals", "nft", `map m { type ipv4_addr : ipv4_addr; flags interval; elements = {
			198.51.100.0/30 : 10.0.0.1, 198.51.100.4/30 : 10.0.0.2, 255.255.255.0/24 : 10.0.0.3 }; }
` + pre + "dnat ip to ip daddr map @m; }",
			"198.51.100.0/30 198.51.100.4/30 255.255.255.0/24"},
		{"concatenations", "nft", pre + `dnat ip to tcp dport . ip daddr map { 80 . 198.51.100.7 : 10.0.0.5 }
			ip6 daddr . tcp dport { 2001:db8:9::5 . 80, 2001:db8:9::6 . 81 } redirect
			ip daddr . udp dport { 198.51.100.16/30 . 1-80 } redirect
			udp dport . ip daddr { 53 . 198.51.100.9 } redirect; }`,
			"198.51.100.7/32 198.51.100.9/32 198.51.100.16/30 2001:db8:9::5/128 2001:db8:9::6/128"},
		{"by way of other chains", "nft", `
			chain ends { ip daddr 198.51.100.0/24 redirect; }
			chain more { tcp dport vmap { 80 : goto ends, 81 : drop }; }
			chain unused { ip daddr 203.0.113.1 redirect; }
` + pre + "ip daddr { 198.51.100.7, 203.0.113.7 } jump more; }",
			"198.51.100.7/32"},
		{"kube-proxy", "nft", `
			chain endpoint { tcp dport 80 dnat ip to 10.244.0.5:8080; }
			chain service { numgen random mod 2 vmap { 0 : goto endpoint, 1 : goto endpoint }; }
			chain external { ip saddr 10.244.0.0/16 goto service; goto service; }
			chain local { drop; }
			map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = {
				198.51.100.7 . tcp . 80 : goto external, 10.96.0.1 . tcp . 443 : goto service, 198.51.100.8 . tcp . 80 : goto local }; }
			chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
` + pre + "jump services; }",
			"10.96.0.1/32 198.51.100.7/32"},
		{"iptables", "iptables-restore", `*nat
-N KUBE-SERVICES
-N KUBE-EXT-A
-N KUBE-SVC-A
-N KUBE-SEP-A
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -d 198.51.100.32/28 -j NETMAP --to 10.0.0.0/28
-A PREROUTING ! -d 198.51.100.9 -p tcp --dport 81 -j REDIRECT
-A PREROUTING -i eth1 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.7
-A KUBE-SERVICES -d 198.51.100.7/32 -p tcp -m comment --comment loadbalancer -m tcp --dport 80 -j KUBE-EXT-A
-A KUBE-EXT-A -j KUBE-SVC-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:8080
COMMIT
*mangle
-A PREROUTING -d 203.0.113.7 -p udp -j TPROXY --on-port 53 --on-ip 127.0.0.1
COMMIT
`, "198.51.100.7/32 198.51.100.32/28 203.0.113.7/32"},
		{"ip6tables", "ip6tables-restore", "*nat\n-A PREROUTING -d 2001:db8:9::5/128 -p tcp --dport 80 -j DNAT --to-destination [2001:db8:17::5]:8080\nCOMMIT\n", "2001:db8:9::5/128"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, host := testhost.NewNetwork(t)
			rules, args := test.rules, []string(nil)
			if test.program == "nft" {
				rules, args = translating(rules), []string{"-f", "-"}
			}
			testhost.Run(t, host, rules, test.program, args...)
			var got netfilter.Ruleset
			await.Must(t, host.Do(func() error { return netfilter.Read(&got, nil) }))
			var words []string
			for _, p := range got.Translated {
				words = append(words, p.String())
			}
			await.Same(t, "translated", test.want, strings.Join(words, " "))
		})
	}
}

// TestWatcher: what is translated follows the rules, as often as may be looked.
func TestWatcher(t *testing.T) {
	_, host := testhost.NewNetwork(t)
	var w netfilter.Watcher
	await.Must(t, host.Do(func() error { w.Begin(); return nil }))
	defer w.End()
	want := func(networks ...string) {
		t.Helper()
		got := await.Must1[[]netip.Prefix](t)(w.Translated())
		await.Same(t, "translated", testhost.Prefixes(networks...), got, cmpopts.EquateEmpty())
	}
	want()
	now := time.Now()
	look := func(what string, changes bool) {
		t.Helper()
		now = now.Add(time.Hour) // which ends each rest
		if w.Look(now) {
			t.Fatal("it changes before anything is read")
		}
		changed := false
		for w.Reads() && !changed {
			changed = w.Look(now)
		}
		await.Same(t, "changes by "+what, changes, changed)
	}
	for _, change := range []struct {
		rules, networks string
		changes         bool
	}{
		{"table ip t { set vips { type ipv4_addr; }; chain pre { type nat hook prerouting priority dstnat; ip daddr @vips redirect; }; }", "", false},
		{"add element ip t vips { 198.51.100.7 }", "198.51.100.7/32", true},
		{"add element ip t vips { 198.51.100.9 }", "198.51.100.7/32 198.51.100.9/32", true},
		{"delete table ip t", "", true},
	} {
		testhost.Run(t, host, change.rules, "nft", "-f", "-")
		look(change.rules, change.changes)
		look("nothing", false)
		want(strings.Fields(change.networks)...)
	}
	tooMany := strings.Builder{}
	for n := range netfilter.MostTranslated + 1 {
		fmt.Fprintf(&tooMany, "10.%d.%d.%d, ", n>>15, n>>7&255, n<<1&255)
	}
	testhost.Run(t, host, "table ip t { chain pre { type nat hook prerouting priority dstnat; ip daddr { "+tooMany.String()+"} redirect; }; }", "nft", "-f", "-")
	look("many", true)
	if networks, err := w.Translated(); len(networks) != netfilter.MostTranslated || err == nil || !strings.Contains(err.Error(), "`addresses`") {
		t.Errorf("%d networks, error %v", len(networks), err)
	}
	testhost.Run(t, host, "flush ruleset", "nft", "-f", "-")
	await.Same(t, "changes while it rests", false, w.Look(now))
	look("none", true)
	want()
}
