// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
	"replypath/test/testhost"
)

// TestNeedlessRules: what the judge says, as a finding. What it judges by is tested with the plan.
func TestNeedlessRules(t *testing.T) {
	const (
		boot    = "; no known file makes it at boot ?? ip rule show"
		from    = "eth1: rule 32765: from 10.4.0.100 lookup 100 "
		nothing = "replypath sends the replies, and this host opened nothing from "
		waits   = "is needed: replypath does not enforce on all interfaces"
	)
	fromEth1 := testhost.Rule(snapshot.Rule{Priority: 32765, Src: testhost.Prefix("10.4.0.100/32"), Table: 100})
	inFiles := func(h *snapshot.Host) {
		h.Written = map[netip.Prefix][]string{testhost.Prefix("10.4.0.100/32"): {"/etc/network/interfaces:12", "/etc/rc.local:3"}}
	}
	testhost.Check(t, NeedlessRules, []testhost.Wants{
		{"none", testhost.Enforces, nil},
		{"nothing uses it", testhost.And(testhost.Enforces, fromEth1), []string{"note " + from + "is not needed: " + nothing + "10.4.0.100 now" + boot}},
		{"the firewall drops by their own interface", testhost.And(testhost.Enforces, fromEth1, testhost.DropsBy("eth1")), []string{"note " + from + "is not needed: " + nothing + "10.4.0.100 now" + boot}},
		{"nothing is attached", fromEth1, []string{"ok " + from + waits + boot}},
		{"a program is missing", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Hooks = h.Hooks[1:] }), []string{"ok " + from + waits + boot}},
		{"an interface only observes", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Enforcing[testhost.Eth0] = false }), []string{"ok " + from + waits + boot}},
		{"the default route leads by an interface that catches replies", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) {
			h.Caught, h.Interfaces = h.Interfaces[:1], h.Interfaces[1:]
			delete(h.Enforcing, testhost.Eth0)
		}), []string{"note " + from + "is not needed: " + nothing + "10.4.0.100 now" + boot}},
		{"ipv6, the network", testhost.And(testhost.Enforces, testhost.Rule(snapshot.Rule{Family: unix.AF_INET6, Priority: 7, Src: testhost.Prefix("2001:db8:4::/64"), Table: 100})), []string{
			"note eth1: rule 7: from 2001:db8:4::/64 lookup 100 is not needed: " + nothing + "2001:db8:4::/64 now; no known file makes it at boot ?? ip -6 rule show",
		}},
		{"in two files", testhost.And(testhost.Enforces, fromEth1, inFiles), []string{
			"note " + from + "is not needed: " + nothing + "10.4.0.100 now; its source stands in /etc/network/interfaces:12, /etc/rc.local:3 ?? ip rule show",
		}},
		{"in two files, not enforcing", testhost.And(fromEth1, inFiles), []string{
			"ok " + from + waits + "; its source stands in /etc/network/interfaces:12, /etc/rc.local:3 ?? ip rule show",
		}},
		{"by another interface", testhost.Rule(snapshot.Rule{Priority: 1, Src: testhost.Prefix("10.3.0.100/32"), Table: 100}), nil},
		{"somebody else's address", testhost.Rule(snapshot.Rule{Priority: 1, Src: testhost.Prefix("192.0.2.1/32"), Table: 100}), nil},
		{"to somebody", testhost.Rule(snapshot.Rule{Priority: 1, Src: testhost.Prefix("10.4.0.100/32"), Dst: testhost.Prefix("192.0.2.0/24"), Table: 100}), nil},
		{"with no mark of tailscale's", testhost.Rule(snapshot.Rule{Priority: 1, Src: testhost.Prefix("10.4.0.100/32"), Mask: 0xff0000, Table: 100}), nil},
		{"not", testhost.Rule(snapshot.Rule{Priority: 1, Src: testhost.Prefix("10.4.0.100/32"), Invert: true, Table: 100}), nil},
		{"more conditions", testhost.Rule(snapshot.Rule{Priority: 1, Src: testhost.Prefix("10.4.0.100/32"), Other: true, Table: 100}), nil},
	})
}

func TestNeedlessMarks(t *testing.T) {
	restoring := []netfilter.Chain{
		{Family: "inet", Table: "lasthop", Name: "input", Rules: []netfilter.Rule{{In: []string{"eth1"}, Marks: []uint32{0x1, 0x101}, Gives: []uint32{0x1, 0x101}}}},
		{Family: "inet", Table: "lasthop", Name: "output", Rules: []netfilter.Rule{{Restores: true}}},
	}
	marked := snapshot.Rule{Priority: 9, Mark: 1, Mask: snapshot.AllBits, Table: 100}
	marked6 := marked
	marked6.Family = unix.AF_INET6
	restores := func(family string) netfilter.Chain {
		return netfilter.Chain{Family: family, Table: "mangle", Name: "OUTPUT", Rules: []netfilter.Rule{{Restores: true}}}
	}
	with := func(r snapshot.Rule, chains []netfilter.Chain) func(*snapshot.Host) {
		return func(h *snapshot.Host) { testhost.Enforces(h); testhost.Rule(r)(h); h.Firewall.Chains = chains }
	}
	const (
		only    = " lookup 100 is not needed: only what arrives by eth1 gets the mark, and replypath sends the replies ?? ip "
		unknown = " lookup 100 is needed: what else than packets from eth1 has the mark is not known ?? ip "
	)
	testhost.Check(t, NeedlessRules, []testhost.Wants{
		{"connmark", with(marked, restoring), []string{"note eth1: rule 9: from all fwmark 0x1" + only + "rule show"}},
		{"connmark, nothing is attached", testhost.And(with(marked, restoring), func(h *snapshot.Host) { h.Attached = false }), []string{
			"ok eth1: rule 9: from all fwmark 0x1 lookup 100 is needed: replypath does not enforce on all interfaces ?? ip rule show",
		}},
		{"with a mask", with(snapshot.Rule{Priority: 9, Mark: 0x100, Mask: 0xf00, Table: 100}, restoring), []string{"note eth1: rule 9: from all fwmark 0x100/0xf00" + only + "rule show"}},
		{"ipv6", with(marked6, restoring), []string{"note eth1: rule 9: from all fwmark 0x1" + only + "-6 rule show"}},
		{"ipv6, by a chain of its own", with(marked6, []netfilter.Chain{restores("ip"), restores("ip6")}), []string{"ok eth1: rule 9: from all fwmark 0x1" + unknown + "-6 rule show"}},
		{"ipv6, and connections bring it back for ipv4 only", with(marked6, []netfilter.Chain{restores("ip")}), nil},
		{"and connections bring it back for ipv6 only", with(marked, []netfilter.Chain{restores("ip6")}), nil},
		{"a mark that no connection brings back", with(marked, nil), nil},
		{"another mark, by its mask", with(snapshot.Rule{Priority: 9, Mark: 0x200, Mask: 0xf00, Table: 100}, restoring), nil},
		{"another mark than the same bits", with(snapshot.Rule{Priority: 9, Mark: 0x100, Mask: snapshot.AllBits, Table: 100}, restoring), nil},
		{"tailscale's, beside a mark of others", with(snapshot.Rule{Priority: 5210, Mark: 0x80000, Mask: 0xff0000, Table: 100}, []netfilter.Chain{restores("inet")}), nil},
		{"to the main table", with(snapshot.Rule{Priority: 9, Mark: 1, Mask: snapshot.AllBits, Table: unix.RT_TABLE_MAIN}, restoring), nil},
		{"all but a mark, as wg-quick has it", with(snapshot.Rule{Priority: 9, Mark: 1, Mask: snapshot.AllBits, Invert: true, Table: 100}, restoring), nil},
		{"a table without a managed interface", with(snapshot.Rule{Priority: 9, Mark: 1, Mask: snapshot.AllBits, Table: 101}, restoring), nil},
	})
}

func TestRulesThatNeverMatch(t *testing.T) {
	const text = "never matches: dev means iif, and what this host sends arrives by lo"
	never := snapshot.Rule{Priority: 8, Src: testhost.Prefix("10.4.0.100/32"), IIF: "eth1", Table: 100}
	testhost.Check(t, RulesThatNeverMatch, []testhost.Wants{
		{"none", nil, nil},
		{"in force", testhost.Rule(never), []string{"note eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; no known file makes it at boot ?? ip rule show"}},
		{"not all files may be read", testhost.And(testhost.Rule(never), func(h *snapshot.Host) { h.Unread = map[string]string{snapshot.PartFiles: "root's rights"} }), []string{
			"note eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; not all files of the network could be read ?? ip rule show",
		}},
		{"a file could not be read", testhost.And(testhost.Rule(never), func(h *snapshot.Host) { h.Failed = map[string]string{snapshot.PartFiles: "read /etc/rc.local: gone"} }), []string{
			"note eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; not all files of the network could be read ?? ip rule show",
		}},
		{"ipv6, forwarded", testhost.Rule(snapshot.Rule{Family: unix.AF_INET6, Priority: 8, Src: testhost.Prefix("2001:db8:4::/64"), IIF: "eth1", Table: 100}), nil},
		{"sent by this host", testhost.Rule(snapshot.Rule{Priority: 8, Src: testhost.Prefix("10.4.0.100/32"), IIF: "lo", Table: 100}), nil},
	})
}

// TestAnswersToLo: a chain of OUTPUT gives the mark by which a rule leads to lo.
func TestAnswersToLo(t *testing.T) {
	proxy := func(hook string, given uint32, kind int) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			r := testhost.Via("", 1)
			r.Type, r.Table = kind, 100
			h.Routes = append(h.Routes, r)
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 100, Mark: 1, Mask: 0xff, Table: 100})
			c := netfilter.Chain{Family: "inet", Table: "proxy", Name: "out", Type: "route", Hooks: []string{hook}}
			c.Rules = append(c.Rules[:0], netfilter.Rule{Handle: 7, Gives: []uint32{given}})
			h.Firewall.Chains = []netfilter.Chain{c}
		}
	}
	testhost.Check(t, AnswersToLo, []testhost.Wants{
		{"none", nil, nil},
		{"a mark of output", proxy("output", 0x101, unix.RTN_LOCAL), []string{
			"warning: inet proxy out, rule 7 marks what this host sends, and rule 100: from all fwmark 0x1/0xff lookup 100 leads it to lo: " +
				"answers with the mark do not leave ?? nft --handle list chain inet proxy out"}},
		{"another mark", proxy("output", 2, unix.RTN_LOCAL), nil},
		{"a mark of prerouting, as tproxy has it", proxy("prerouting", 1, unix.RTN_LOCAL), nil},
		{"to somewhere else", proxy("output", 1, unix.RTN_UNICAST), nil},
	})
}
