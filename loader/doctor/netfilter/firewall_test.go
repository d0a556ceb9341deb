// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"

	"replypath/loader/doctor/snapshot"
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
	want := map[string]snapshot.Chain{
		"inet filter pre": {Family: "inet", Table: "filter", Name: "pre", Type: "filter", Hooks: []string{"prerouting"}, Rules: []snapshot.FirewallRule{
			{ReversePath: true, Refuses: true}, {ReversePath: true, Refuses: true, In: []string{"eth1"}},
		}},
		"inet filter output": {Family: "inet", Table: "filter", Name: "output", Type: "filter", Hooks: output, Rules: []snapshot.FirewallRule{
			{Jumps: []string{"more"}}, {Restores: true}, {OutUnknown: true},
		}},
		"inet filter more": {Family: "inet", Table: "filter", Name: "more", Type: "filter", Hooks: output, Rules: []snapshot.FirewallRule{
			{OutNames: []string{"eth0"}, Refuses: true}, {OutNames: []string{"eth1"}}, {OutNames: []string{"et*"}}, {OutNames: []string{"*"}},
		}},
		"inet filter unused": {Family: "inet", Table: "filter", Name: "unused", Rules: []snapshot.FirewallRule{{OutNames: []string{"eth0"}, Refuses: true}}},
		"ip nat pre": {Family: "ip", Table: "nat", Name: "pre", Type: "nat", Hooks: []string{"prerouting"}, Rules: []snapshot.FirewallRule{
			{DNAT: []netip.Addr{testhost.Address("10.4.0.7")}},
		}},
		"ip nat post": {Family: "ip", Table: "nat", Name: "post", Type: "nat", Hooks: []string{"postrouting"}, Rules: []snapshot.FirewallRule{{OutNames: []string{"eth0"}}}},
		"netdev t in": {Family: "netdev", Table: "t", Name: "in", Type: "filter", Hooks: []string{"ingress"}, Devices: []string{"eth1"}},
	}
	await.Same(t, "read", want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
}

// readChains reads a host's chains, by name, and leaves out the handles of rules, which it wants to be there.
func readChains(t *testing.T, host *topology.Host) map[string]snapshot.Chain {
	t.Helper()
	names := map[int]string{}
	for _, name := range []string{"eth0", "eth1"} {
		link := await.Must1[netlink.Link](t)(host.Netlink().LinkByName(name))
		names[link.Attrs().Index] = name
	}
	var f snapshot.Firewall
	await.Must(t, host.Do(func() error { return Read(&f, func(index int) string { return names[index] }) }))
	chains := map[string]snapshot.Chain{}
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
	want := map[string][]snapshot.FirewallRule{
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
	want := map[string]snapshot.Chain{
		"netdev t out": {Family: "netdev", Table: "t", Name: "out", Type: "filter", Hooks: []string{"egress"}, Devices: []string{"eth0", "eth1"}},
	}
	await.Same(t, "read", want, readChains(t, host))
}

// TestReadNoFirewall: nothing is read where nothing is.
func TestReadNoFirewall(t *testing.T) {
	_, host := testhost.NewNetwork(t)
	var f snapshot.Firewall
	await.Must(t, host.Do(func() error { return Read(&f, nil) }))
	await.Same(t, "read", snapshot.Firewall{}, f)
}

// What iptables-nft leaves to its own extensions.
func TestReadExtensions(t *testing.T) {
	eth1 := []byte("eth1\x00")
	for _, test := range []struct {
		name  string
		exprs []expr.Any
		want  snapshot.FirewallRule
	}{
		{"-i eth1 -m rpfilter --invert -j DROP", []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Data: eth1},
			&expr.Match{Name: "rpfilter"}, &expr.Verdict{Kind: expr.VerdictDrop},
		}, snapshot.FirewallRule{ReversePath: true, Refuses: true, In: []string{"eth1"}}},
		{"-m rpfilter -j REJECT", []expr.Any{&expr.Match{Name: "rpfilter"}, &expr.Target{Name: "REJECT"}}, snapshot.FirewallRule{ReversePath: true, Refuses: true}},
		{"-m mark --mark 0x40000/0x40000 -m rpfilter --invert -j DROP", []expr.Any{
			&expr.Match{Name: "mark", Info: &xt.Unknown{0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0}}, &expr.Match{Name: "rpfilter"}, &expr.Verdict{Kind: expr.VerdictDrop},
		}, snapshot.FirewallRule{ReversePath: true, Refuses: true, Marked: true}},
		{"-m mark ! --mark 0x40000/0x40000 -m rpfilter --invert -j DROP", []expr.Any{
			&expr.Match{Name: "mark", Info: &xt.Unknown{0, 0, 4, 0, 0, 0, 4, 0, 1, 0, 0, 0}}, &expr.Match{Name: "rpfilter"}, &expr.Verdict{Kind: expr.VerdictDrop},
		}, snapshot.FirewallRule{ReversePath: true, Refuses: true}},
		{"-j CONNMARK --restore-mark", []expr.Any{&expr.Target{Name: "CONNMARK"}}, snapshot.FirewallRule{Restores: true}},
		{"-m connmark --mark 1 -j MARK, in a dialect of its own", []expr.Any{
			&expr.Match{Name: "connmark"}, &expr.Immediate{Register: 1, Data: []byte{1, 0, 0, 0}},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		}, snapshot.FirewallRule{Restores: true, Marks: []uint32{1}, Gives: []uint32{1}}},
		{"a mark that is none of a connection", []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}},
			snapshot.FirewallRule{GivesUnknown: true}},
		{"-j HMARK", []expr.Any{&expr.Target{Name: "HMARK"}}, snapshot.FirewallRule{GivesUnknown: true}},
		{"-p tcp", []expr.Any{&expr.Match{Name: "tcp"}}, snapshot.FirewallRule{}},
	} {
		if diff := cmp.Diff(test.want, readRule(test.exprs, nil)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// Loops of jumps, which nft refuses, come to an end.
func TestFollowJumps(t *testing.T) {
	jump := func(to ...string) []snapshot.FirewallRule { return []snapshot.FirewallRule{{Jumps: to}} }
	chains := []snapshot.Chain{
		{Table: "t", Name: "c", Rules: jump("b")},
		{Table: "t", Name: "b", Rules: jump("c", "gone")},
		{Table: "t", Name: "a", Type: "filter", Hooks: []string{"output"}, Rules: jump("b")},
		{Table: "other", Name: "b"},
	}
	followJumps(chains)
	for n, want := range [][]string{{"output"}, {"output"}, {"output"}, nil} {
		if diff := cmp.Diff(want, chains[n].Hooks); diff != "" {
			t.Errorf("chain %s (-want +got):\n%s", chains[n].Name, diff)
		}
	}
}

func TestLegacyTables(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{"ip_tables_names": "nat\nfilter\n", "ip6_tables_names": "raw\n"} {
		await.Must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	await.Same(t, "read", []string{"ip filter", "ip nat", "ip6 raw"}, legacyIn(dir))
}
