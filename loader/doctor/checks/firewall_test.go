// SPDX-License-Identifier: Apache-2.0

package checks

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
		{"drops", pre("filter", netfilter.Rule{Refuses: true}), []string{"error: requests are dropped: inet filter pre, rule 4 drops" + text + "nft --handle list chain inet filter pre"}},
		{"accepts what is right", pre("filter", netfilter.Rule{In: []string{"eth1"}}), []string{
			"warning eth1: inet filter pre, rule 4 tells apart" + text + "nft --handle list chain inet filter pre",
		}},
		{"of some interfaces", pre("filter", netfilter.Rule{Refuses: true, In: []string{"eth*"}}), []string{
			"error: requests are dropped: inet filter pre, rule 4 drops" + text + "nft --handle list chain inet filter pre",
		}},
		{"of others", pre("filter", netfilter.Rule{Refuses: true, In: []string{"wan0", "ppp*"}}), nil},
		{"of marked packets", pre("filter", netfilter.Rule{Refuses: true, Marked: true}), []string{
			"note: inet filter pre, rule 4 drops packets with some mark" + text[len(" packets"):] + "nft --handle list chain inet filter pre",
		}},
	})
}

func TestOutgoingRules(t *testing.T) {
	out := func(kind string, hooks []string, rules ...netfilter.Rule) func(*snapshot.Host) {
		return testhost.Chains(netfilter.Chain{Family: "ip", Table: "filter", Name: "OUT", Type: kind, Hooks: hooks, Rules: rules})
	}
	output := []string{"output"}
	const (
		text  = ": the one that the kernel chose, not the one that the reply leaves by; if replies are missing, look here"
		first = " ?? nft --handle list chain ip filter OUT  # rules by saddr bind replies wherever they leave"
	)
	testhost.Check(t, OutgoingRules, []testhost.Wants{
		{"none", nil, nil},
		{"two of three", out("filter", output,
			netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}, netfilter.Rule{Handle: 4, OutNames: []string{"docker0"}},
			netfilter.Rule{Handle: 5, OutNames: []string{"eth*", "eth1"}}), []string{"note: ip filter OUT, rule 3, 5: by the outgoing interface (eth*, eth1)" + text + first}},
		{"by a set", out("filter", []string{"postrouting"}, netfilter.Rule{Handle: 3, OutUnknown: true}), []string{
			"note: ip filter OUT, rule 3: by the outgoing interface (a set)" + text + first,
		}},
		{"masquerading", out("nat", []string{"postrouting"}, netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"forwarded", out("filter", []string{"forward"}, netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}), nil},
		{"of another interface", out("filter", output, netfilter.Rule{Handle: 3, OutNames: []string{"lo"}}), nil},
		{"of a chain that nothing leads to", out("", nil, netfilter.Rule{Handle: 3, OutNames: []string{"eth1"}}), nil},
	})
}

func TestLegacyIsInUse(t *testing.T) {
	testhost.Check(t, LegacyTables, []testhost.Wants{
		{"none", nil, nil},
		{"of both families", func(h *snapshot.Host) { h.Firewall.Legacy = []string{"ip filter", "ip6 raw"} }, []string{
			"note: doctor cannot read the tables of iptables-legacy: ip filter, ip6 raw ?? iptables-legacy-save; ip6tables-legacy-save",
		}},
	})
}
