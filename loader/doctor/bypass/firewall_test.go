// SPDX-License-Identifier: Apache-2.0

package bypass

import (
	"testing"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
	"replypath/test/testhost"
)

func TestReversePathRules(t *testing.T) {
	pre := func(table string, r netfilter.Rule) func(*snapshot.Host) {
		r.ReversePath, r.Handle = true, 4
		return testhost.Chains(netfilter.Chain{Family: "inet", Table: table, Name: "pre", Hooks: []string{"prerouting"}, Rules: []netfilter.Rule{r}})
	}
	const text = " packets whose route back leads by another interface than they arrived by ?? "
	testhost.Check(t, ReversePathRules, []testhost.Wants{
		{"none", nil, nil},
		{"drops", pre("filter", netfilter.Rule{Refuses: true}), []string{
			"error: requests are dropped: inet filter pre, rule 4 drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"accepts what is right", pre("filter", netfilter.Rule{In: []string{"eth1"}}), []string{
			"warning eth1: inet filter pre, rule 4 tells apart" + text + "nft --handle list chain inet filter pre",
		}},
		{"of some interfaces", pre("filter", netfilter.Rule{Refuses: true, In: []string{"eth*"}}), []string{
			"error: requests are dropped: inet filter pre, rule 4 drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"of others", pre("filter", netfilter.Rule{Refuses: true, In: []string{"wan0", "ppp*"}}), nil},
		{"of marked packets", pre("filter", netfilter.Rule{Refuses: true, Marked: true}), []string{
			"error: requests are dropped: inet filter pre, rule 4 drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"of what Calico marks", pre("calico", netfilter.Rule{Refuses: true, Marked: true}), []string{
			"ok: inet calico pre, rule 4 drops packets with a mark of Calico only," + text[len(" packets"):] + "nft --handle list chain inet calico pre @ Calico",
		}},
		{"Calico's, without a mark", pre("calico", netfilter.Rule{Refuses: true}), []string{
			"error: requests are dropped: inet calico pre, rule 4 drops" + text + "nft --handle list chain inet calico pre @ Calico",
		}},
		{"firewalld", pre("firewalld", netfilter.Rule{Refuses: true}), []string{
			"error: requests are dropped: inet firewalld pre, rule 4 drops" + text + "nft --handle list chain inet firewalld pre @ firewalld",
		}},
	})
}

func TestOutgoingRules(t *testing.T) {
	out := func(kind string, hooks []string, rules ...netfilter.Rule) func(*snapshot.Host) {
		return testhost.Chains(netfilter.Chain{Family: "ip", Table: "filter", Name: "OUT", Type: kind, Hooks: hooks, Rules: rules})
	}
	output := []string{"output"}
	const (
		text  = ": the one that the kernel chose, not the one that the reply leaves by"
		first = " ?? nft --handle list chain ip filter OUT  # rules by saddr bind replies wherever they leave"
	)
	testhost.Check(t, OutgoingRules, []testhost.Wants{
		{"none", nil, nil},
		{"two of three", out("filter", output,
			netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}, netfilter.Rule{Handle: 4, OutNames: []string{"docker0"}},
			netfilter.Rule{Handle: 5, OutNames: []string{"eth*", "eth1"}}), []string{
			"note: ip filter OUT, rule 3, 5: by the outgoing interface (eth*, eth1)" + text + first,
		}},
		{"by a set", out("filter", []string{"postrouting"}, netfilter.Rule{Handle: 3, OutUnknown: true}), []string{
			"note: ip filter OUT, rule 3: by the outgoing interface (a set)" + text + first,
		}},
		{"masquerading", out("nat", []string{"postrouting"}, netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"forwarded", out("filter", []string{"forward"}, netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"of another interface", out("filter", output, netfilter.Rule{Handle: 3, OutNames: []string{"lo"}}), nil},
		{"of a chain that nothing leads to", out("", nil, netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}), nil},
	})
}

func TestEgressChains(t *testing.T) {
	testhost.Check(t, EgressChains, []testhost.Wants{
		{"none", testhost.Chains(netfilter.Chain{Family: "netdev", Table: "t", Name: "in", Hooks: []string{"ingress"}, Devices: []string{"eth1"}}), nil},
		{"one", testhost.Chains(netfilter.Chain{Family: "netdev", Table: "t", Name: "out", Hooks: []string{"egress"}, Devices: []string{"eth1", "eth7"}}), []string{
			"note eth1: netdev t out: an egress chain of netdev does not see replies that are moved to this interface" +
				" ?? nft --handle list chain netdev t out  # an output chain does",
		}},
	})
}

func TestLegacyIsInUse(t *testing.T) {
	testhost.Check(t, LegacyTables, []testhost.Wants{
		{"none", nil, nil},
		{"of both families", func(h *snapshot.Host) { h.Firewall.Legacy = []string{"ip filter", "ip nat", "ip6 raw"} }, []string{
			"note: tables of iptables-legacy are in use (ip filter, ip nat, ip6 raw), which doctor cannot read: look for rpfilter, CONNMARK, -o, MASQUERADE and DNAT (see `addresses`) in iptables-legacy-save and ip6tables-legacy-save" +
				" ?? iptables-legacy-save -t filter; iptables-legacy-save -t nat; ip6tables-legacy-save -t raw  # doctor can only look at rules of nftables",
		}},
	})
}

// TestQuotedNames has commands with names that the shell would read as more.
func TestQuotedNames(t *testing.T) {
	c := netfilter.Chain{Family: "inet", Table: "a;b", Name: "c&d"}
	for got, want := range map[string]string{
		showChain(&c): "nft --handle list chain inet 'a;b' 'c&d'",
		showHook(&snapshot.Hook{TCX: true}, "wan&1"): "bpftool net show dev 'wan&1'",
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
