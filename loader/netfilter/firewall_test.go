// SPDX-License-Identifier: Apache-2.0

package netfilter_test

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/loader/netfilter"
	"replypath/test/await"
	"replypath/test/testhost"
	"replypath/test/topology"
)

// TestReadFirewall has nft load rules and reads them back.
func TestReadFirewall(t *testing.T) {
	_, host := testhost.NewNetwork(t)
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
		"inet filter pre": {Family: "inet", Table: "filter", Name: "pre", Type: "filter", Policy: "accept", Hooks: []string{"prerouting"}, Rules: []netfilter.Rule{
			{ReversePath: true, Refuses: true}, {ReversePath: true, Refuses: true, In: []string{"eth1"}}, {Refuses: true},
		}},
		"inet filter output": {Family: "inet", Table: "filter", Name: "output", Type: "filter", Policy: "accept", Hooks: output, Rules: []netfilter.Rule{
			{Destination: netfilter.Destination{Jumps: []string{"more"}, To: testhost.Prefixes("192.0.2.1/32")}}, {Restores: true}, {OutUnknown: true},
		}},
		"inet filter more": {Family: "inet", Table: "filter", Name: "more", Type: "filter", Hooks: output, Rules: []netfilter.Rule{
			{OutNames: []string{"eth0"}, Refuses: true}, {OutNames: []string{"eth1"}}, {OutNames: []string{"et*"}}, {OutNames: []string{"*"}},
		}},
		"inet filter unused": {Family: "inet", Table: "filter", Name: "unused", Rules: []netfilter.Rule{{OutNames: []string{"eth0"}, Refuses: true}}},
		"ip nat pre": {Family: "ip", Table: "nat", Name: "pre", Type: "nat", Policy: "accept", Hooks: []string{"prerouting"}, Rules: []netfilter.Rule{
			{Destination: netfilter.Destination{Translates: true, To: testhost.Prefixes("192.0.2.1/32")}},
		}},
		"ip nat post": {Family: "ip", Table: "nat", Name: "post", Type: "nat", Policy: "accept", Hooks: []string{"postrouting"}, Rules: []netfilter.Rule{{OutNames: []string{"eth0"}}}},
		"netdev t in": {Family: "netdev", Table: "t", Name: "in", Type: "filter", Policy: "accept", Hooks: []string{"ingress"}, Devices: []string{"eth1"}},
	}
	await.Same(t, "read", want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(testhost.SamePrefix))
}

// readChains reads a host's chains, by name, and leaves out the handles and expressions of rules, which it wants to be there,
// and the rules that say nothing beside them.
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
			if c.Rules[n].Expressions == nil {
				t.Errorf("%s: rule %d has no expressions", c.String(), n)
			}
			c.Rules[n].Handle, c.Rules[n].Expressions = 0, nil
		}
		c.Rules = slices.DeleteFunc(c.Rules, func(r netfilter.Rule) bool { return reflect.DeepEqual(r, netfilter.Rule{}) })
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
		if diff := cmp.Diff(rules, got[name].Rules); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestReadEgressChain: netdev has had an egress hook since 5.16.
func TestReadEgressChain(t *testing.T) {
	_, host := testhost.NewNetwork(t)
	c := host.Command(t.Context(), "nft", "-f", "-")
	c.Stdin = strings.NewReader(`table netdev t { chain out { type filter hook egress devices = { "eth0", "eth1" } priority 0; }; }`)
	output, err := c.CombinedOutput()
	if err != nil && strings.Contains(string(output), "not supported") {
		t.Skipf("kernel %s has no egress hook of netdev", testhost.KernelRelease())
	}
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, output)
	}
	want := map[string]netfilter.Chain{
		"netdev t out": {Family: "netdev", Table: "t", Name: "out", Type: "filter", Policy: "accept", Hooks: []string{"egress"}, Devices: []string{"eth0", "eth1"}},
	}
	await.Same(t, "read", want, readChains(t, host))
}

// TestReadNoFirewall: nothing is read where nothing is.
func TestReadNoFirewall(t *testing.T) {
	_, host := testhost.NewNetwork(t)
	var f netfilter.Ruleset
	await.Must(t, host.Do(func() error { return netfilter.Read(&f, nil) }))
	await.Same(t, "read", netfilter.Ruleset{}, f)
}
