package doctor

import (
	"testing"

	"replypath/loader/discover"
)

func TestReversePathRules(t *testing.T) {
	pre := func(table string, r FirewallRule) func(*Host) {
		r.ReversePath, r.Handle = true, 4
		return chains(Chain{Family: "inet", Table: table, Name: "pre", Hooks: []string{"prerouting"}, Rules: []FirewallRule{r}})
	}
	firewalld := func(value string) func(*Host) {
		return func(h *Host) { h.Firewall.Firewalld = &Firewalld{"/etc/firewalld/firewalld.conf", value} }
	}
	const (
		text    = " packets whose way back leaves by another interface than they came in by ?? "
		setting = "grep IPv6_rpfilter /etc/firewalld/firewalld.conf @ firewalld"
		pending = ": firewalld, which has no such rule in force now, will drop ipv6 packets whose way back leaves by another interface ?? "
	)
	runTable(t, reversePathRules, []wants{
		{"none", nil, nil},
		{"drops", pre("filter", FirewallRule{Refuses: true}), []string{
			"error: inet filter pre, rule 4: drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"accepts what is right", pre("filter", FirewallRule{In: []string{"eth1"}}), []string{
			"warning eth1: inet filter pre, rule 4: tells apart" + text + "nft --handle list chain inet filter pre",
		}},
		{"of some interfaces", pre("filter", FirewallRule{Refuses: true, In: []string{"eth*"}}), []string{
			"error: inet filter pre, rule 4: drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"of others", pre("filter", FirewallRule{Refuses: true, In: []string{"wan0", "ppp*"}}), nil},
		{"firewalld", func(h *Host) { pre("firewalld", FirewallRule{Refuses: true})(h); firewalld("strict")(h) }, []string{
			"error: inet firewalld pre, rule 4: drops" + text + setting,
		}},
		{"firewalld does not run", firewalld("yes"), []string{
			"warning: /etc/firewalld/firewalld.conf: IPv6_rpfilter=yes" + pending + setting,
		}},
		{"firewalld is loose", firewalld("loose"), nil},
		{"firewalld is told not to", firewalld("no"), nil},
	})
}

func TestOutgoingRules(t *testing.T) {
	out := func(kind string, hooks []string, rules ...FirewallRule) func(*Host) {
		return chains(Chain{Family: "ip", Table: "filter", Name: "OUT", Type: kind, Hooks: hooks, Rules: rules})
	}
	output := []string{"output"}
	const (
		text  = ", they see the one that the kernel chose, not the one that the reply leaves by"
		first = " ?? nft --handle list chain ip filter OUT  # rules by saddr bind replies wherever they leave"
	)
	runTable(t, outgoingRules, []wants{
		{"none", nil, nil},
		{"two of three", out("filter", output,
			FirewallRule{Handle: 3, OutNames: []string{"eth1"}}, FirewallRule{Handle: 4, OutNames: []string{"docker0"}},
			FirewallRule{Handle: 5, OutNames: []string{"eth*", "eth1"}}), []string{
			"warning: ip filter OUT, rule 3, 5: by the outgoing interface (eth*, eth1)" + text + first,
		}},
		{"by a set", out("filter", []string{"postrouting"}, FirewallRule{Handle: 3, OutUnknown: true}), []string{
			"warning: ip filter OUT, rule 3: by the outgoing interface (a set)" + text + first,
		}},
		{"masquerading", out("nat", []string{"postrouting"}, FirewallRule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"forwarded", out("filter", []string{"forward"}, FirewallRule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"of another interface", out("filter", output, FirewallRule{Handle: 3, OutNames: []string{"lo"}}), nil},
		{"of a chain that nothing leads to", out("", nil, FirewallRule{Handle: 3, OutNames: []string{"eth1"}}), nil},
	})
}

func TestEgressChainsAndFlowtables(t *testing.T) {
	runTable(t, egressChains, []wants{
		{"none", chains(Chain{Family: "netdev", Table: "t", Name: "in", Hooks: []string{"ingress"}, Devices: []string{"eth1"}}), nil},
		{"one", chains(Chain{Family: "netdev", Table: "t", Name: "out", Hooks: []string{"egress"}, Devices: []string{"eth1", "eth7"}}), []string{
			"warning eth1: netdev t out: an egress chain of netdev does not see replies that are moved to this interface" +
				" ?? nft --handle list chain netdev t out  # an output chain does",
		}},
	})
	table := func(hardware bool) func(*Host) {
		return func(h *Host) {
			h.Firewall.Flowtables = []Flowtable{{Family: "inet", Table: "t", Name: "ft", Devices: []string{"eth1", "eth7"}, Hardware: hardware}}
		}
	}
	runTable(t, flowtables, []wants{
		{"software", table(false), nil},
		{"hardware", table(true), []string{
			"warning eth1: flowtable inet t ft has flags offload: forwarded packets that the hardware passes on are not seen" +
				" ?? nft list flowtables inet",
		}},
	})
}

func TestLegacyIsInUse(t *testing.T) {
	runTable(t, legacyTables, []wants{
		{"none", nil, nil},
		{"of both families", func(h *Host) { h.Firewall.Legacy = []string{"ip filter", "ip nat", "ip6 raw"} }, []string{
			"warning: tables of iptables-legacy are in use (ip filter, ip nat, ip6 raw), which cannot be read here: look for rpfilter, CONNMARK and -o in iptables-legacy-save and ip6tables-legacy-save" +
				" ?? iptables-legacy-save -t filter; iptables-legacy-save -t nat; ip6tables-legacy-save -t raw  # doctor can only look at rules of nftables",
		}},
	})
}

// TestQuotedNames has commands with names that the shell would read as more.
func TestQuotedNames(t *testing.T) {
	c := Chain{Family: "inet", Table: "a;b", Name: "c&d"}
	for got, want := range map[string]string{
		showChain(&c): "nft --handle list chain inet 'a;b' 'c&d'",
		showFirewalld(&Firewalld{File: "/etc/a b"}):                   "grep IPv6_rpfilter '/etc/a b'",
		showHook(&Hook{TCX: true}, discover.Interface{Name: "wan&1"}): "bpftool net show dev 'wan&1'",
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
