// SPDX-License-Identifier: Apache-2.0

package routing

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/netfilter"
	"replypath/test/testhost"
)

// opened has this host have opened connections from an address of eth1.
func opened(from string, count int) func(*snapshot.Host) {
	return func(h *snapshot.Host) {
		for n := range count {
			h.Uses = append(h.Uses, snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: netip.AddrPortFrom(testhost.Address(from), uint16(40000+n)), Remote: netip.MustParseAddrPort("192.0.2.1:443")})
		}
	}
}

func TestNeedlessRules(t *testing.T) {
	const (
		nobody  = "; no known file makes it at boot ?? ip rule show"
		from    = "eth1: rule 32765: from 10.4.0.100 lookup 100 "
		from6   = "eth1: rule 7: from 2001:db8:4::100 lookup 100 "
		without = "is not needed: replypath sends replies by eth1 without it, and nothing that this host opened uses "
	)
	fromEth1 := testhost.Rule(snapshot.Rule{Priority: 32765, Src: testhost.Prefix("10.4.0.100/32"), Table: 100})
	inFiles := func(h *snapshot.Host) {
		h.Written = map[netip.Prefix][]string{testhost.Prefix("10.4.0.100/32"): {"/etc/network/interfaces:12", "/etc/rc.local:3"}}
	}
	testhost.Check(t, NeedlessRules, []testhost.Wants{
		{"none", testhost.Enforces, nil},
		{"nothing uses it", testhost.And(testhost.Enforces, fromEth1), []string{"warning " + from + without + "10.4.0.100" + nobody}},
		{"its route has a smaller MTU", testhost.And(testhost.Enforces, fromEth1, testhost.Limited(100, dump.Limits{MTU: 1400})), []string{"ok " + from + "is needed: default via 10.4.0.1 dev eth1 table 100 has an MTU of 1400, and replypath sends what eth1 takes, 1500, " +
			"and 0 connections were opened from 10.4.0.100" + nobody}},
		{"another address is used", testhost.And(testhost.Enforces, fromEth1, opened("10.3.0.100", 2)), []string{"warning " + from + without + "10.4.0.100" + nobody}},
		{"one connection lives by it", testhost.And(testhost.Enforces, fromEth1, opened("10.4.0.100", 1)), []string{
			"ok " + from + "is needed: 1 connection was opened from 10.4.0.100" + nobody,
		}},
		{"several do", testhost.And(testhost.Enforces, fromEth1, opened("10.4.0.100", 3)), []string{
			"ok " + from + "is needed: 3 connections were opened from 10.4.0.100" + nobody,
		}},
		{"the source decides", testhost.And(testhost.Enforces, fromEth1, testhost.StrongEth1, opened("10.4.0.100", 3)), []string{
			"warning " + from + "is not needed: replypath sends replies by eth1 without it, and host_model: strong what this host opens" + nobody,
		}},
		{"the source decides, but not what two interfaces have", testhost.And(testhost.Enforces, fromEth1, testhost.StrongEth1, opened("10.4.0.100", 1),
			func(h *snapshot.Host) { h.Own[2].Interface = 0 }), []string{"ok " + from + "is needed: 1 connection was opened from 10.4.0.100" + nobody}},
		{"the source decides, but not of what is forwarded", testhost.And(testhost.Enforces, testhost.StrongEth1, opened("10.4.0.55", 1), opened("10.4.0.100", 1),
			testhost.Rule(snapshot.Rule{Priority: 32765, Src: testhost.Prefix("10.4.0.0/24"), Table: 100})), []string{
			"ok eth1: rule 32765: from 10.4.0.0/24 lookup 100 is needed: 1 connection was opened from 10.4.0.0/24" + nobody,
		}},
		{"it cannot be told", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.UsesError = "list tcp sockets: no memory" }), []string{
			"ok " + from + "is needed: what was opened from 10.4.0.100 is not known: list tcp sockets: no memory" + nobody,
		}},
		{"nothing is attached", fromEth1, []string{
			"ok " + from + "is needed: replypath is not attached, and 0 connections were opened from 10.4.0.100" + nobody,
		}},
		{"a program is missing", testhost.And(testhost.Enforces, fromEth1, opened("10.4.0.100", 1), func(h *snapshot.Host) { h.Hooks = h.Hooks[1:] }), []string{
			"ok " + from + "is needed: replypath is not attached, and 1 connection was opened from 10.4.0.100" + nobody,
		}},
		{"the configuration excludes something", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Config.Exclude = []config.Exclusion{{}} }), []string{
			"ok " + from + "is needed: replypath leaves alone what the configuration excludes or does not list as protocols, and 0 connections were opened from 10.4.0.100" + nobody,
		}},
		{"the configuration does not list a protocol", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Config.Protocols = h.Config.Protocols[1:] }), []string{
			"ok " + from + "is needed: replypath leaves alone what the configuration excludes or does not list as protocols, and 0 connections were opened from 10.4.0.100" + nobody,
		}},
		{"the interface only observes", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Enforcing[testhost.Eth1] = false }), []string{
			"ok " + from + "is needed: replypath does not enforce on eth1, and 0 connections were opened from 10.4.0.100" + nobody,
		}},
		{"the interface of the default route only observes", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Enforcing[testhost.Eth0] = false }), []string{
			"ok " + from + "is needed: replypath does not enforce on eth0, and 0 connections were opened from 10.4.0.100" + nobody,
		}},
		{"the default route leads by an interface that catches replies", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) {
			h.Caught, h.Interfaces = h.Interfaces[:1], h.Interfaces[1:]
			delete(h.Enforcing, testhost.Eth0)
		}), []string{
			"warning " + from + without + "10.4.0.100; no known file makes it at boot ?? ip rule show",
		}},
		{"nothing sees the interface of the default route", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Interfaces = h.Interfaces[1:] }), []string{
			"ok " + from + "is needed: the default route leads by eth0, where nothing catches replies, and 0 connections were opened from 10.4.0.100" + nobody,
		}},
		{"its table has the only default route", testhost.And(testhost.Enforces, fromEth1, func(h *snapshot.Host) { h.Routes = h.Routes[2:] }), []string{
			"ok " + from + "is needed: no other default route has replies be built, and 0 connections were opened from 10.4.0.100" + nobody,
		}},
		{"ipv6, the network", testhost.And(testhost.Enforces, testhost.Rule(snapshot.Rule{Family: unix.AF_INET6, Priority: 7, Src: testhost.Prefix("2001:db8:4::/64"), Table: 100})), []string{
			"warning eth1: rule 7: from 2001:db8:4::/64 lookup 100 " + without + "2001:db8:4::/64; no known file makes it at boot ?? ip -6 rule show",
		}},
		{"ipv6, of protocol static, in use", testhost.And(testhost.Enforces, opened("2001:db8:4::100", 1),
			testhost.Rule(snapshot.Rule{Family: unix.AF_INET6, Priority: 7, Src: testhost.Prefix("2001:db8:4::100/128"), Table: 100, Protocol: unix.RTPROT_STATIC})), []string{
			"ok " + from6 + "proto static is needed: 1 connection was opened from 2001:db8:4::100; no known file makes it at boot ?? ip -6 rule show",
		}},
		{"in two files", testhost.And(testhost.Enforces, fromEth1, inFiles), []string{
			"warning " + from + without + "10.4.0.100; its source stands in /etc/network/interfaces:12, /etc/rc.local:3 ?? ip rule show",
		}},
		{"in two files, not enforcing", testhost.And(fromEth1, inFiles), []string{
			"ok " + from + "is needed: replypath is not attached, and 0 connections were opened from 10.4.0.100; its source stands in /etc/network/interfaces:12, /etc/rc.local:3 ?? ip rule show",
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
	restoring := []netfilter.Chain{{Family: "inet", Table: "lasthop", Name: "output", Rules: []netfilter.Rule{{Restores: true, Marks: []uint32{0x1, 0x101}}}}}
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
		nobody = " ?? ip "
		back   = " lookup 100 leads back by eth1 what has the connection mark of "
		work   = ": replypath does this work for replies, what else has the mark is not known here"
	)
	testhost.Check(t, NeedlessMarks, []testhost.Wants{
		{"connmark", with(marked, restoring), []string{
			"warning eth1: rule 9: from all fwmark 0x1" + back + "inet lasthop output" + work + nobody + "rule show",
		}},
		{"connmark, nothing is attached", testhost.And(with(marked, restoring), func(h *snapshot.Host) { h.Attached = false }), []string{
			"ok eth1: rule 9: from all fwmark 0x1" + back + "inet lasthop output: replies need it, as replypath is not attached" + nobody + "rule show",
		}},
		{"with a mask", with(snapshot.Rule{Priority: 9, Mark: 0x100, Mask: 0xf00, Table: 100}, restoring), []string{
			"warning eth1: rule 9: from all fwmark 0x100/0xf00" + back + "inet lasthop output" + work + nobody + "rule show",
		}},
		{"ipv6", with(marked6, restoring), []string{
			"warning eth1: rule 9: from all fwmark 0x1" + back + "inet lasthop output" + work + nobody + "-6 rule show",
		}},
		{"ipv6, by a chain of its own", with(marked6, []netfilter.Chain{restores("ip"), restores("ip6")}), []string{
			"warning eth1: rule 9: from all fwmark 0x1" + back + "ip6 mangle OUTPUT" + work + nobody + "-6 rule show",
		}},
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
	never6 := snapshot.Rule{Family: unix.AF_INET6, Priority: 8, Src: testhost.Prefix("2001:db8:4::100/128"), IIF: "eth1", Table: 100}
	testhost.Check(t, RulesThatNeverMatch, []testhost.Wants{
		{"none", nil, nil},
		{"in force", testhost.Rule(never), []string{
			"warning eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; no known file makes it at boot ?? ip rule show",
		}},
		{"ipv6, in force and in a file", func(h *snapshot.Host) {
			testhost.Rule(never6)(h)
			h.Written = map[netip.Prefix][]string{never6.Src: {"/etc/sysconfig/network-scripts/rule6-eth1:1"}}
		}, []string{
			"warning eth1: rule 8: from 2001:db8:4::100 iif eth1 lookup 100 " + text + "; its source stands in /etc/sysconfig/network-scripts/rule6-eth1:1 ?? ip -6 rule show",
		}},
		{"not all files may be read", testhost.And(testhost.Rule(never), func(h *snapshot.Host) { h.Unread = map[string]string{snapshot.PartFiles: "root's rights"} }), []string{
			"warning eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; not all files of the network could be read ?? ip rule show",
		}},
		{"a file could not be read", testhost.And(testhost.Rule(never), func(h *snapshot.Host) { h.Failed = map[string]string{snapshot.PartFiles: "read /etc/rc.local: gone"} }), []string{
			"warning eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; not all files of the network could be read ?? ip rule show",
		}},
		{"ipv6, forwarded", testhost.Rule(snapshot.Rule{Family: unix.AF_INET6, Priority: 8, Src: testhost.Prefix("2001:db8:4::/64"), IIF: "eth1", Table: 100}), nil},
		{"in force and in a file", func(h *snapshot.Host) {
			testhost.Rule(never)(h)
			h.Written = map[netip.Prefix][]string{never.Src: {"/etc/network/interfaces:4"}}
		}, []string{
			"warning eth1: rule 8: from 10.4.0.100 iif eth1 lookup 100 " + text + "; its source stands in /etc/network/interfaces:4 ?? ip rule show",
		}},
		{"forwarded", testhost.Rule(snapshot.Rule{Priority: 8, Src: testhost.Prefix("10.4.0.0/24"), IIF: "eth1", Table: 100}), nil},
		{"sent by this host", testhost.Rule(snapshot.Rule{Priority: 8, Src: testhost.Prefix("10.4.0.100/32"), IIF: "lo", Table: 100}), nil},
	})
}
