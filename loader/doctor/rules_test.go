package doctor

import (
	"testing"

	"golang.org/x/sys/unix"
)

// rule adds a rule to the fixture, and a table whose default route leaves by eth1.
func rule(r Rule) func(*Host) {
	return func(h *Host) {
		if r.Family == 0 {
			r.Family = unix.AF_INET
		}
		h.Rules = append(h.Rules, r)
		h.Routes = append(h.Routes, inTable(via("10.4.0.1", eth1), 100), inTable(via("2001:db8:4::1", eth1), 100))
	}
}

func TestNeedlessRules(t *testing.T) {
	const (
		text   = ": replypath does this work for replies without a rule, and "
		nobody = "no file that was looked at brings it back"
	)
	fromEth1 := Rule{Priority: 32765, Src: prefix("10.4.0.100/32"), Table: 100}
	runTable(t, needlessRules, []wants{
		{"none", nil, nil},
		{"typed", rule(fromEth1), []string{
			"warning eth1: rule 32765: from 10.4.0.100 lookup 100" + text + nobody + " => ip rule del priority 32765 from 10.4.0.100 lookup 100",
		}},
		{"ipv6, the network", rule(Rule{Family: unix.AF_INET6, Priority: 7, Src: prefix("2001:db8:4::/64"), Table: 100}), []string{
			"warning eth1: rule 7: from 2001:db8:4::/64 lookup 100" + text + nobody + " => ip -6 rule del priority 7 from 2001:db8:4::/64 lookup 100",
		}},
		{"ipv6, the address, in a file", func(h *Host) {
			r := Rule{Family: unix.AF_INET6, Priority: 7, Src: prefix("2001:db8:4::100/128"), Table: 100}
			rule(r)(h)
			h.RuleLines = []RuleLine{{File: "/etc/sysconfig/network-scripts/rule6-eth1", Line: 1, Src: r.Src, Table: "100"}}
		}, []string{
			"warning eth1: rule 7: from 2001:db8:4::100 lookup 100" + text + "it stands in /etc/sysconfig/network-scripts/rule6-eth1:1 => ip -6 rule del priority 7 from 2001:db8:4::100 lookup 100",
		}},
		{"in two files", func(h *Host) {
			rule(fromEth1)(h)
			h.RuleLines = []RuleLine{
				{File: "/etc/network/interfaces", Line: 12, Src: fromEth1.Src, Table: "replication"},
				{File: "/etc/rc.local", Line: 3, Src: fromEth1.Src, Table: "100"},
				{File: "/etc/rc.local", Line: 4, Src: fromEth1.Src, Table: "101", Text: "ip rule add from 10.4.0.100 table 101"},
			}
		}, []string{
			"warning eth1: rule 32765: from 10.4.0.100 lookup 100" + text + "it stands in /etc/network/interfaces:12, /etc/rc.local:3 => ip rule del priority 32765 from 10.4.0.100 lookup 100",
			`warning eth1: /etc/rc.local:4 adds "ip rule add from 10.4.0.100 table 101", which is not in force: replypath does this work without it` +
				` => sed -i --follow-symlinks '4s,ip[[:space:]]*rule[[:space:]]*add[[:space:]]*from[[:space:]]*10\.4\.0\.100[[:space:]]*table[[:space:]]*101\([[:space:];]\|$\),true\1,' /etc/rc.local`,
		}},
		{"by another interface", rule(Rule{Priority: 1, Src: prefix("10.3.0.100/32"), Table: 100}), nil},
		{"somebody else's address", rule(Rule{Priority: 1, Src: prefix("192.0.2.1/32"), Table: 100}), nil},
		{"to somebody", rule(Rule{Priority: 1, Src: prefix("10.4.0.100/32"), Dst: prefix("192.0.2.0/24"), Table: 100}), nil},
		{"not", rule(Rule{Priority: 1, Src: prefix("10.4.0.100/32"), Invert: true, Table: 100}), nil},
		{"more conditions", rule(Rule{Priority: 1, Src: prefix("10.4.0.100/32"), Other: true, Table: 100}), nil},
	})
}

func TestNeedlessMarks(t *testing.T) {
	restoring := []Chain{{Family: "inet", Table: "lasthop", Name: "output", Rules: []FirewallRule{{Restores: true}}}}
	marked := Rule{Priority: 9, Mark: 1, Mask: 0xffffffff, Table: 100}
	marked6 := marked
	marked6.Family = unix.AF_INET6
	restores := func(family string) Chain {
		return Chain{Family: family, Table: "mangle", Name: "OUTPUT", Rules: []FirewallRule{{Restores: true}}}
	}
	with := func(r Rule, chains []Chain) func(*Host) {
		return func(h *Host) { rule(r)(h); h.Firewall.Chains = chains }
	}
	runTable(t, needlessMarks, []wants{
		{"connmark", with(marked, restoring), []string{
			"warning eth1: rule 9: from all fwmark 0x1 lookup 100, with the connection mark of inet lasthop output: replypath does this work for replies without a mark, and no file that was looked at brings it back" +
				" => ip rule del priority 9 from all fwmark 0x1 lookup 100",
		}},
		{"with a mask and a file", func(h *Host) {
			with(Rule{Priority: 9, Mark: 0x100, Mask: 0xf00, Table: 100}, restoring)(h)
			h.RuleLines = []RuleLine{{File: "/etc/rc.local", Line: 3, Mark: "0x100/0xf00", Table: "100"}}
		}, []string{
			"warning eth1: rule 9: from all fwmark 0x100/0xf00 lookup 100, with the connection mark of inet lasthop output: replypath does this work for replies without a mark, and it stands in /etc/rc.local:3" +
				" => ip rule del priority 9 from all fwmark 0x100/0xf00 lookup 100",
		}},
		{"ipv6, in a file that has the other family's as well", func(h *Host) {
			with(marked6, restoring)(h)
			h.RuleLines = []RuleLine{
				{File: "/etc/rc.local", Line: 3, Mark: "1", Table: "100", Family: unix.AF_INET},
				{File: "/etc/rc.local", Line: 4, Mark: "1", Table: "100", Family: unix.AF_INET6},
			}
		}, []string{
			"warning eth1: rule 9: from all fwmark 0x1 lookup 100, with the connection mark of inet lasthop output: replypath does this work for replies without a mark, and it stands in /etc/rc.local:4" +
				" => ip -6 rule del priority 9 from all fwmark 0x1 lookup 100",
		}},
		{"ipv6, by a chain of its own", with(marked6, []Chain{restores("ip"), restores("ip6")}), []string{
			"warning eth1: rule 9: from all fwmark 0x1 lookup 100, with the connection mark of ip6 mangle OUTPUT: replypath does this work for replies without a mark, and no file that was looked at brings it back" +
				" => ip -6 rule del priority 9 from all fwmark 0x1 lookup 100",
		}},
		{"ipv6, and connections bring it back for ipv4 only", with(marked6, []Chain{restores("ip")}), nil},
		{"and connections bring it back for ipv6 only", with(marked, []Chain{restores("ip6")}), nil},
		{"a mark that no connection brings back", with(marked, nil), nil},
		{"all but a mark, as wg-quick has it", with(Rule{Priority: 9, Mark: 1, Mask: 0xffffffff, Invert: true, Table: 100}, restoring), nil},
		{"a table without a managed interface", with(Rule{Priority: 9, Mark: 1, Table: 101}, restoring), nil},
	})
}

func TestRulesThatNeverMatch(t *testing.T) {
	const text = "never matches: dev means iif, and what this host sends comes in by lo"
	never := Rule{Priority: 8, Src: prefix("10.4.0.100/32"), IIF: "eth1", Table: 100}
	never6 := Rule{Family: unix.AF_INET6, Priority: 8, Src: prefix("2001:db8:4::100/128"), IIF: "eth1", Table: 100}
	runTable(t, rulesThatNeverMatch, []wants{
		{"none", nil, nil},
		{"in force", rule(never), []string{
			"warning eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; no file that was looked at brings it back => ip rule del priority 8 from 10.4.0.100 iif eth1 lookup 100",
		}},
		{"ipv6, in force and in a file", func(h *Host) {
			rule(never6)(h)
			h.RuleLines = []RuleLine{
				{File: "/etc/sysconfig/network-scripts/rule-eth1", Line: 1, Src: never.Src, IIF: "eth0", Table: "100", Text: "from 10.4.0.100 iif eth0 table 100"},
				{File: "/etc/sysconfig/network-scripts/rule6-eth1", Line: 1, Src: never6.Src, IIF: "eth1", Table: "100"},
			}
		}, []string{
			"warning eth1: rule 8: from 2001:db8:4::100 iif eth1 lookup 100 " + text + "; it stands in /etc/sysconfig/network-scripts/rule6-eth1:1 => ip -6 rule del priority 8 from 2001:db8:4::100 iif eth1 lookup 100",
			`warning eth0: /etc/sysconfig/network-scripts/rule-eth1:1 adds "from 10.4.0.100 iif eth0 table 100", which ` + text +
				` => sed -i --follow-symlinks '1s/.*//' /etc/sysconfig/network-scripts/rule-eth1`,
		}},
		{"ipv6, forwarded", rule(Rule{Family: unix.AF_INET6, Priority: 8, Src: prefix("2001:db8:4::/64"), IIF: "eth1", Table: 100}), nil},
		{"in force and in a file", func(h *Host) {
			rule(never)(h)
			h.RuleLines = []RuleLine{{File: "/etc/network/interfaces", Line: 4, Src: never.Src, IIF: "eth1", Table: "100"}}
		}, []string{
			"warning eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; it stands in /etc/network/interfaces:4 => ip rule del priority 8 from 10.4.0.100 iif eth1 lookup 100",
		}},
		{"in a file only", func(h *Host) {
			h.RuleLines = []RuleLine{{File: "/etc/network/interfaces", Line: 4, Src: never.Src, IIF: "eth1", Text: "ip rule add from 10.4.0.100 dev eth1"}}
		}, []string{
			`warning eth1: /etc/network/interfaces:4 adds "ip rule add from 10.4.0.100 dev eth1", which ` + text +
				` => sed -i --follow-symlinks '4s,ip[[:space:]]*rule[[:space:]]*add[[:space:]]*from[[:space:]]*10\.4\.0\.100[[:space:]]*dev[[:space:]]*eth1\([[:space:];]\|$\),true\1,' /etc/network/interfaces`,
		}},
		{"forwarded", rule(Rule{Priority: 8, Src: prefix("10.4.0.0/24"), IIF: "eth1", Table: 100}), nil},
		{"sent by this host", rule(Rule{Priority: 8, Src: prefix("10.4.0.100/32"), IIF: "lo", Table: 100}), nil},
	})
}
