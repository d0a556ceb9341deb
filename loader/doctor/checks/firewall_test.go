// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
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
		text  = ": the one that the kernel chose, not the one that the reply leaves by"
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

func TestEgressChains(t *testing.T) {
	testhost.Check(t, EgressChains, []testhost.Wants{
		{"none", testhost.Chains(netfilter.Chain{Family: "netdev", Table: "t", Name: "in", Hooks: []string{"ingress"}, Devices: []string{"eth1"}}), nil},
		{"one", testhost.Chains(netfilter.Chain{Family: "netdev", Table: "a;b", Name: "c&d", Hooks: []string{"egress"}, Devices: []string{"eth1", "eth7"}}), []string{
			"note eth1: netdev a;b c&d: an egress chain of netdev does not see replies that are moved to this interface" +
				" ?? nft --handle list chain netdev 'a;b' 'c&d'  # an output chain does",
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

// by is a rule about what leaves by an interface.
func by(op expr.CmpOp, name string, does expr.Any) netfilter.Rule {
	return netfilter.Rule{Handle: 4, OutNames: []string{name}, Expressions: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: append([]byte(name), 0)}, &expr.Counter{}, does,
	}}
}

// at is a chain of a type at a hook, and a question from afar by eth1.
func at(kind, hook, policy string, rules ...netfilter.Rule) func(*snapshot.Host) {
	chain := testhost.Chains(netfilter.Chain{Family: "inet", Table: "t", Name: "c", Type: kind, Hooks: []string{hook}, Policy: policy, Rules: rules})
	return testhost.And(chain, func(h *snapshot.Host) {
		h.Flows = []flows.Flow{{Peer: "10.60.0.1", Interface: new("eth1")}}
		leads("10.4.0.100/24", "2001:db8:4::100/64")(h)
	})
}

// unasked has no question arrive from afar: those that did come from the link, or by a router that a route names.
func unasked(h *snapshot.Host) {
	h.Flows = []flows.Flow{{Peer: "10.4.0.7", Interface: new("eth1")}, {Peer: "10.60.0.1", Interface: new("eth1"), Gateway: new("10.4.0.1")}}
}

// leads has the kernel send answers from addresses of eth1 by eth0.
func leads(addresses ...string) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		h.OwnWays = []snapshot.OwnWay{{Address: testhost.Prefix("10.3.0.100/24"), On: "eth0", By: "eth0", Device: testhost.Eth0}}
		for _, a := range testhost.Prefixes(addresses...) {
			h.OwnWays = append(h.OwnWays, snapshot.OwnWay{Address: a, On: "eth1", By: "eth0", Device: testhost.Eth0})
		}
	}
}

var drop = &expr.Verdict{Kind: expr.VerdictDrop}

func TestRefusedAnswers(t *testing.T) {
	const (
		dropped = "error eth0: replies of eth1 are dropped: inet t c, "
		remedy  = ", does before they are moved, as their route leads by eth0" +
			" ?? nft --handle list chain inet t c  # rules by saddr let replies pass wherever they leave"
	)
	byRule, byPolicy := []string{dropped + "rule 4" + remedy}, []string{dropped + "its policy" + remedy}
	testhost.Check(t, refusedAnswers, []testhost.Wants{
		{"none", nil, nil},
		{"eth0", at("filter", "output", "accept", by(expr.CmpOpEq, "eth0", drop)), byRule},
		{"nobody asks", testhost.And(at("filter", "output", "accept", by(expr.CmpOpEq, "eth0", drop)), unasked), []string{"note" + byRule[0][len("error"):]}},
		{"by a gateway of everything", testhost.And(at("filter", "output", "accept", by(expr.CmpOpEq, "eth0", drop)), unasked, func(h *snapshot.Host) {
			h.Gateways[1].Reach4.Everything = true
		}), byRule},
		{"all but eth1", at("filter", "output", "accept", by(expr.CmpOpNeq, "eth1", drop)), byRule},
		{"by the policy", at("filter", "output", "drop", by(expr.CmpOpEq, "eth1", &expr.Verdict{Kind: expr.VerdictAccept})), byPolicy},
		{"on the way out", at("filter", "postrouting", "accept", by(expr.CmpOpEq, "eth0", &expr.Reject{})), byRule},
		{"no answers", at("filter", "output", "accept", by(expr.CmpOpEq, "eth1", drop)), nil},
		{"everything", at("filter", "output", "drop"), nil},
		{"what is forwarded", at("filter", "forward", "accept", by(expr.CmpOpEq, "eth0", drop)), nil},
		{"answers leave by their own interface", testhost.And(at("filter", "output", "accept", by(expr.CmpOpEq, "eth0", drop)), leads()), nil},
	})
	testhost.Check(t, OutgoingRules, []testhost.Wants{{"named once", at("filter", "output", "accept", by(expr.CmpOpEq, "eth0", drop)), byRule}})
}

func TestMasquerades(t *testing.T) {
	finds := func(rule, source, word string) string {
		return "warning eth0: replies from " + source + " get another source: inet t c, rule " + rule +
			", translates what leaves by eth0, of connections that connection tracking has forgotten (timeout, conntrack -F) ?? nft --handle list chain inet t c  # spare them by " + word + " saddr != { " + source + " }"
	}
	both := []string{finds("4", "10.4.0.100", "ip"), finds("4", "2001:db8:4::100", "ip6")}
	testhost.Check(t, Masquerades, []testhost.Wants{
		{"none", nil, nil},
		{"eth0", at("nat", "postrouting", "accept", by(expr.CmpOpEq, "eth0", &expr.Masq{})), both},
		{"nobody asks", testhost.And(at("nat", "postrouting", "accept", by(expr.CmpOpEq, "eth0", &expr.Masq{})), unasked),
			[]string{"note" + both[0][len("warning"):], "note" + both[1][len("warning"):]}},
		{"eth1", at("nat", "postrouting", "accept", by(expr.CmpOpEq, "eth1", &expr.Masq{})), nil},
		{"all but eth1, to a constant", at("nat", "postrouting", "accept", by(expr.CmpOpNeq, "eth1",
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV6})), both[1:]},
		{"several addresses", testhost.And(at("nat", "postrouting", "accept", by(expr.CmpOpEq, "eth0", &expr.Target{Name: "SNAT"})), func(h *snapshot.Host) {
			leads("10.4.0.100/24", "10.4.0.101/24", "fe80::1/64")(h)
		}), []string{finds("4", "10.4.0.100, 10.4.0.101", "ip")}},
		{"answers leave by their own interface", testhost.And(at("nat", "postrouting", "accept", by(expr.CmpOpEq, "eth0", &expr.Masq{})), leads()), nil},
	})
}
