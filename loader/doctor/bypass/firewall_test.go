// SPDX-License-Identifier: Apache-2.0

package bypass

import (
	"testing"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

func TestReversePathRules(t *testing.T) {
	pre := func(table string, r snapshot.FirewallRule) func(*snapshot.Host) {
		r.ReversePath, r.Handle = true, 4
		return testhost.Chains(snapshot.Chain{Family: "inet", Table: table, Name: "pre", Hooks: []string{"prerouting"}, Rules: []snapshot.FirewallRule{r}})
	}
	firewalld := func(value string) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Firewall.Firewalld = &snapshot.Firewalld{File: "/etc/firewalld/firewalld.conf", IPv6RPFilter: value, Enabled: true}
		}
	}
	const (
		text    = " packets whose route back leads by another interface than they arrived by ?? "
		setting = "grep IPv6_rpfilter /etc/firewalld/firewalld.conf @ firewalld"
		pending = ": firewalld has no such rule in force now, but will drop ipv6 packets whose route back leads by another interface ?? "
	)
	testhost.Check(t, ReversePathRules, []testhost.Wants{
		{"none", nil, nil},
		{"drops", pre("filter", snapshot.FirewallRule{Refuses: true}), []string{
			"error: inet filter pre, rule 4: drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"accepts what is right", pre("filter", snapshot.FirewallRule{In: []string{"eth1"}}), []string{
			"warning eth1: inet filter pre, rule 4: tells apart" + text + "nft --handle list chain inet filter pre",
		}},
		{"of some interfaces", pre("filter", snapshot.FirewallRule{Refuses: true, In: []string{"eth*"}}), []string{
			"error: inet filter pre, rule 4: drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"of others", pre("filter", snapshot.FirewallRule{Refuses: true, In: []string{"wan0", "ppp*"}}), nil},
		{"of marked packets", pre("filter", snapshot.FirewallRule{Refuses: true, Marked: true}), []string{
			"error: inet filter pre, rule 4: drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"of what Calico marks", pre("calico", snapshot.FirewallRule{Refuses: true, Marked: true}), []string{
			"ok: inet calico pre, rule 4: drops packets with a mark of Calico only," + text[len(" packets"):] + "nft --handle list chain inet calico pre @ Calico",
		}},
		{"Calico's, without a mark", pre("calico", snapshot.FirewallRule{Refuses: true}), []string{
			"error: inet calico pre, rule 4: drops" + text + "nft --handle list chain inet calico pre @ Calico",
		}},
		{"firewalld", func(h *snapshot.Host) {
			pre("firewalld", snapshot.FirewallRule{Refuses: true})(h)
			firewalld("strict")(h)
		}, []string{
			"error: inet firewalld pre, rule 4: drops" + text + setting,
		}},
		{"firewalld does not run", firewalld("yes"), []string{
			"warning: /etc/firewalld/firewalld.conf: IPv6_rpfilter=yes" + pending + setting,
		}},
		{"firewalld is installed, and nobody starts it", func(h *snapshot.Host) {
			firewalld("yes")(h)
			h.Firewall.Firewalld.Enabled = false
		}, nil},
		{"firewalld is loose", firewalld("loose"), nil},
		{"firewalld is told not to", firewalld("no"), nil},
	})
}

func TestOutgoingRules(t *testing.T) {
	out := func(kind string, hooks []string, rules ...snapshot.FirewallRule) func(*snapshot.Host) {
		return testhost.Chains(snapshot.Chain{Family: "ip", Table: "filter", Name: "OUT", Type: kind, Hooks: hooks, Rules: rules})
	}
	output := []string{"output"}
	const (
		text  = ": the one that the kernel chose, not the one that the reply leaves by"
		first = " ?? nft --handle list chain ip filter OUT  # rules by saddr bind replies wherever they leave"
	)
	testhost.Check(t, OutgoingRules, []testhost.Wants{
		{"none", nil, nil},
		{"two of three", out("filter", output,
			snapshot.FirewallRule{Handle: 3, OutNames: []string{"eth1"}}, snapshot.FirewallRule{Handle: 4, OutNames: []string{"docker0"}},
			snapshot.FirewallRule{Handle: 5, OutNames: []string{"eth*", "eth1"}}), []string{
			"warning: ip filter OUT, rule 3, 5: by the outgoing interface (eth*, eth1)" + text + first,
		}},
		{"by a set", out("filter", []string{"postrouting"}, snapshot.FirewallRule{Handle: 3, OutUnknown: true}), []string{
			"warning: ip filter OUT, rule 3: by the outgoing interface (a set)" + text + first,
		}},
		{"masquerading", out("nat", []string{"postrouting"}, snapshot.FirewallRule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"forwarded", out("filter", []string{"forward"}, snapshot.FirewallRule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"of another interface", out("filter", output, snapshot.FirewallRule{Handle: 3, OutNames: []string{"lo"}}), nil},
		{"of a chain that nothing leads to", out("", nil, snapshot.FirewallRule{Handle: 3, OutNames: []string{"eth1"}}), nil},
	})
}

func TestEgressChainsAndFlowtables(t *testing.T) {
	testhost.Check(t, EgressChains, []testhost.Wants{
		{"none", testhost.Chains(snapshot.Chain{Family: "netdev", Table: "t", Name: "in", Hooks: []string{"ingress"}, Devices: []string{"eth1"}}), nil},
		{"one", testhost.Chains(snapshot.Chain{Family: "netdev", Table: "t", Name: "out", Hooks: []string{"egress"}, Devices: []string{"eth1", "eth7"}}), []string{
			"warning eth1: netdev t out: an egress chain of netdev does not see replies that are moved to this interface" +
				" ?? nft --handle list chain netdev t out  # an output chain does",
		}},
	})
	table := func(hardware bool) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Firewall.Flowtables = []snapshot.Flowtable{{Family: "inet", Table: "t", Name: "ft", Devices: []string{"eth1", "eth7"}, Hardware: hardware}}
		}
	}
	testhost.Check(t, Flowtables, []testhost.Wants{
		{"software", table(false), nil},
		{"hardware", table(true), []string{
			"warning eth1: flowtable inet t ft has flags offload: replypath does not see forwarded packets that the hardware passes on" +
				" ?? nft list flowtables inet",
		}},
	})
}

func TestLegacyIsInUse(t *testing.T) {
	testhost.Check(t, LegacyTables, []testhost.Wants{
		{"none", nil, nil},
		{"of both families", func(h *snapshot.Host) { h.Firewall.Legacy = []string{"ip filter", "ip nat", "ip6 raw"} }, []string{
			"warning: tables of iptables-legacy are in use (ip filter, ip nat, ip6 raw), which doctor cannot read: look for rpfilter, CONNMARK and -o in iptables-legacy-save and ip6tables-legacy-save" +
				" ?? iptables-legacy-save -t filter; iptables-legacy-save -t nat; ip6tables-legacy-save -t raw  # doctor can only look at rules of nftables",
		}},
	})
}

// TestQuotedNames has commands with names that the shell would read as more.
func TestQuotedNames(t *testing.T) {
	c := snapshot.Chain{Family: "inet", Table: "a;b", Name: "c&d"}
	for got, want := range map[string]string{
		showChain(&c): "nft --handle list chain inet 'a;b' 'c&d'",
		showFirewalld(&snapshot.Firewalld{File: "/etc/a b"}): "grep IPv6_rpfilter '/etc/a b'",
		showHook(&snapshot.Hook{TCX: true}, "wan&1"):         "bpftool net show dev 'wan&1'",
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
