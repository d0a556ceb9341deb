// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/kernelroute"
	"replypath/loader/netfilter"
	"replypath/loader/nexthop"
	"replypath/test/await"
	"replypath/test/testhost"
)

// newPlanner plans for the fixture after a change.
func newPlanner(change func(*snapshot.Host), more ...func(*planner)) *planner {
	p := &planner{Host: testhost.New(), looks: newLooks()}
	p.judgeOf.Host = p.Host
	if change != nil {
		change(p.Host)
	}
	for _, m := range more {
		m(p)
	}
	return p
}

// planned has the rules of a host judged.
func planned(change func(*snapshot.Host), more ...func(*planner)) []string {
	var lines []string
	for _, r := range newPlanner(change, more...).rules() {
		line := fmt.Sprintf("%s %s %s: %s", r.Verdict, r.Kind, r.Rule, r.Reason)
		if r.Owner != nil {
			line += " @ " + *r.Owner
		}
		if r.Connections > 0 {
			line += fmt.Sprintf(" (%d, %s)", r.Connections, strings.Join(r.Peers, " "))
		}
		lines = append(lines, line)
	}
	return lines
}

// having has the host have something open.
func having(u snapshot.Use) func(*planner) {
	return func(p *planner) { p.judgeOf.uses = append(p.judgeOf.uses, u) }
}

// opening has two connections that were seen, and opened from 10.4.0.100.
func opening(isRelated bool) func(*planner) {
	return func(p *planner) {
		p.judgeOf.rows = append(p.judgeOf.rows, snapshot.Row{Flows: 2, Key: snapshot.Key{
			Originated: true, Self: testhost.Address("10.4.0.100"), Protocol: "tcp", ToInterface: "eth1", Related: isRelated,
		}})
	}
}

// TestRemedy: host_model: strong is proposed for what is not related alone.
func TestRemedy(t *testing.T) {
	const strong, none = "host_model: strong of eth1", "none: its peer is heard at eth1, and related sends it there"
	off := func(h *snapshot.Host) { h.Config.Related = false }
	for _, test := range []struct {
		name      string
		change    func(*snapshot.Host)
		isRelated bool
		want      string
	}{
		{"related", nil, true, none},
		{"not related", nil, false, strong},
		{"the setting is off", off, true, strong},
		{"the protocol is not listed", func(h *snapshot.Host) { h.Config.Protocols = nil }, true, strong},
		{"the source decides", testhost.And(testhost.StrongEth1, off), true, "none: host_model: strong sends it by eth1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPlanner(test.change, opening(test.isRelated))
			if got, _, _ := strings.Cut(p.remedy(&p.judgeOf.rows[0]), "; or a route"); got != test.want {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
}

func TestRules(t *testing.T) {
	const (
		rule  = " rule rule 100: from 10.4.0.100 lookup 100: "
		table = " table ipv4 table 100: "
		told  = "needed" + table + "replypath learns the gateway of eth1 from it; with gateways: in the configuration it could go"
		leads = "needed" + table + "rule 100: from 10.4.0.100 lookup 100 leads to it and is needed"
	)
	bySource := testhost.Rule(snapshot.Rule{Priority: 100, Src: testhost.Prefix("10.4.0.100/32"), Table: 100})
	marked := testhost.Rule(snapshot.Rule{Priority: 100, Mark: 1, Mask: snapshot.AllBits, Table: 100})
	marks := func(rules ...netfilter.Rule) func(*snapshot.Host) {
		return testhost.Chains(
			netfilter.Chain{Family: "inet", Table: "marks", Name: "in", Rules: rules},
			netfilter.Chain{Family: "inet", Table: "marks", Name: "out", Rules: []netfilter.Rule{{Restores: true, Marks: []uint32{1}}}},
		)
	}
	onEth1 := netfilter.Rule{In: []string{"eth1"}, Marks: []uint32{1}, Gives: []uint32{1}}
	byMark := func(verdict, reason string) []string {
		tables := "needed" + table + "rule 100: from all fwmark 0x1 lookup 100 leads to it and is needed"
		if verdict == NotNeeded {
			tables = told
		}
		return []string{verdict + " rule rule 100: from all fwmark 0x1 lookup 100: " + reason, verdict + " mark chain inet marks out: " + reason, tables}
	}
	asked := func(h *snapshot.Host) {
		for n := range 5 {
			h.Flows = append(h.Flows, flows.Flow{Protocol: "tcp", Peer: fmt.Sprintf("10.%d.0.1", 5+n), Self: "10.4.0.100", Interface: new("eth1")})
		}
	}
	needless := func(why string) []string {
		return []string{"not-needed" + rule + "once replypath enforces on all interfaces: replypath sends the replies, " + why, told}
	}
	toPeer := snapshot.Use{Protocol: unix.IPPROTO_TCP, Local: netip.MustParseAddrPort("10.4.0.100:40000"), Remote: netip.MustParseAddrPort("192.0.2.1:443")}
	related, tunnel := toPeer, toPeer
	related.Related, tunnel.Protocol = true, unix.IPPROTO_ESP
	mayAsk := snapshot.Use{Protocol: unix.IPPROTO_UDP, Local: netip.MustParseAddrPort("10.4.0.100:123")}
	without := needless("and this host opened nothing from 10.4.0.100 now")[0]
	opened := func(reason string) []string {
		const by = " (1, 192.0.2.0/24)"
		return []string{"needed" + rule + reason + by, leads + by}
	}
	needed := func(reason string) []string { return []string{"needed" + rule + reason, leads} }
	row := func(from string) func(*planner) {
		return func(p *planner) {
			p.judgeOf.rows = []snapshot.Row{{Key: snapshot.Key{Self: testhost.Address("10.4.0.100"), Peer: testhost.Prefix("10.1.0.0/24"), FromInterface: from}, Flows: 1}}
		}
	}
	hasGateway := func(h *snapshot.Host) { h.Interfaces[1].Settings.Gateways = []netip.Addr{testhost.Address("10.4.0.1")} }
	strong := testhost.And(testhost.StrongEth1, hasGateway)
	decides := []string{
		needless("and by host_model: strong what this host opens")[0],
		"not-needed" + table + "only rules lead to it that are not needed",
	}
	for _, test := range []struct {
		name   string
		change func(*snapshot.Host)
		more   []func(*planner)
		want   []string
	}{
		{"none", nil, nil, nil},
		{"nothing uses it", bySource, nil, []string{without, told}},
		{"watched for days, with replies", testhost.And(bySource, asked, testhost.Enforces), []func(*planner){func(p *planner) {
			p.judgeOf.lookedFor = 50 * 3600e9
		}}, []string{
			"not-needed" + rule + "replypath sends the replies, and this host opened nothing from 10.4.0.100 in the 2 d watched" +
				" (5, 10.5.0.0/24 10.6.0.0/24 10.7.0.0/24)", told + " (5, 10.5.0.0/24 10.6.0.0/24 10.7.0.0/24)",
		}},
		{"a connection is open", bySource, []func(*planner){having(toPeer)}, opened("this host has 1 connection open from 10.4.0.100; host_model: strong would send listed protocols by eth1")},
		{"connections were open", bySource, []func(*planner){func(p *planner) {
			p.judgeOf.rows = []snapshot.Row{
				{Key: snapshot.Key{Originated: true, Self: testhost.Address("10.4.0.100")}, Flows: 3}, {Key: snapshot.Key{Self: testhost.Address("10.4.0.100"), FromInterface: "eth0"}, Flows: 9},
				{Key: snapshot.Key{Originated: true, Self: testhost.Address("10.3.0.100")}, Flows: 7},
			}
		}}, needed("this host opened 3 connections from 10.4.0.100 now; host_model: strong would send listed protocols by eth1")},
		{"what is open is related", bySource, []func(*planner){having(related), opening(true)}, needless("and what this host opened from 10.4.0.100 now is related to what its peers began")},
		{"what was open was related", bySource, []func(*planner){opening(true)}, needless("and what this host opened from 10.4.0.100 now is related to what its peers began")},
		{"related is off", testhost.And(bySource, func(h *snapshot.Host) { h.Config.Related = false }), []func(*planner){opening(true)}, needed("this host opened 2 connections from 10.4.0.100 now; host_model: strong would send listed protocols by eth1")},
		{"some of it was related", bySource, []func(*planner){opening(true), opening(false)}, needed("this host opened 2 connections from 10.4.0.100 now; host_model: strong would send listed protocols by eth1")},
		{"the source decides", testhost.And(bySource, strong), []func(*planner){having(toPeer)}, decides},
		{"the source decides, by a gateway that only its table tells of", testhost.And(bySource, testhost.StrongEth1), nil, needed("host_model: strong sends " +
			"to the gateway of eth1, which table 100 names: with gateways: in the configuration both could go")},
		{"replies go to a gateway that only its table tells of", testhost.And(bySource, func(h *snapshot.Host) {
			h.Interfaces[1].Settings.NextHop = config.NextHopGateway
		}), nil, needed("next_hop: gateway sends to the gateway of eth1, which table 100 names: with gateways: in the configuration both could go")},
		{"something is excluded", testhost.And(bySource, func(h *snapshot.Host) { h.Config.Exclude = []config.Exclusion{{}} }), nil, needed("replypath leaves alone what the configuration excludes or does not list as protocols")},
		{"no other default route, but replypath's", testhost.And(bySource, func(h *snapshot.Host) { h.Routes = h.Routes[1:] }), nil, []string{without, told}},
		{"no other default route", testhost.And(bySource, func(h *snapshot.Host) { h.Routes, h.Config.FallbackRoute = h.Routes[1:], false }), nil, needed("no other default route has replies be built")},
		{"the gateway is configured", testhost.And(bySource, hasGateway), nil, []string{
			without,
			"not-needed" + table + "only rules lead to it that are not needed",
		}},
		{"its table has routes of no interest", testhost.And(testhost.Rule(snapshot.Rule{Priority: 100, Src: testhost.Prefix("10.4.0.100/32"), Table: 77}), func(h *snapshot.Host) {
			h.Tables = map[snapshot.TableOf]bool{{Family: unix.AF_INET, Table: 77}: true}
		}), nil, []string{
			"needed rule rule 100: from 10.4.0.100 lookup 77: it does not send the answers of an interface back there: replypath does not replace it",
			"needed table ipv4 table 77: rule 100: from 10.4.0.100 lookup 77 leads to it and is needed",
		}},
		{"its table is empty", testhost.Rule(snapshot.Rule{Priority: 100, Src: testhost.Prefix("10.4.0.100/32"), Table: 77}), nil, []string{
			"not-needed rule rule 100: from 10.4.0.100 lookup 77: table 77 has no route, as after a link that flapped: the rule does nothing now",
			"not-needed table ipv4 table 77: only rules lead to it that are not needed",
		}},
		{"another source", testhost.Rule(snapshot.Rule{Priority: 100, Src: testhost.Prefix("10.99.0.1/32"), Table: 100}), nil, []string{
			"needed rule rule 100: from 10.99.0.1 lookup 100: it does not send the answers of an interface back there: replypath does not replace it",
			"needed table ipv4 table 100: rule 100: from 10.99.0.1 lookup 100 leads to it and is needed",
		}},
		{"it never matches", testhost.Rule(snapshot.Rule{Priority: 100, Src: testhost.Prefix("10.4.0.100/32"), IIF: "eth1", Table: 100}), nil, []string{
			"not-needed rule rule 100: from 10.4.0.100 iif eth1 lookup 100: it never matches: dev means iif, and what this host sends arrives by lo", told,
		}},
		{"it refuses", func(h *snapshot.Host) {
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 7, Dst: testhost.Prefix("192.0.2.0/24"), Refuses: "prohibit"})
		}, nil, []string{"needed rule rule 7: from all to 192.0.2.0/24 prohibit: it refuses what it matches, and replypath respects that"}},
		{"of VRFs", func(h *snapshot.Host) {
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 1000, Protocol: unix.RTPROT_KERNEL})
		}, nil, []string{"foreign rule rule 1000: from all: it gives each VRF its table @ the kernel"}},
		{"of VRFs, by hand", func(h *snapshot.Host) {
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 999, Protocol: unix.RTPROT_BOOT})
		}, nil, []string{"foreign rule rule 999: from all proto boot: it gives each VRF its table"}},
		{"keepalived's", func(h *snapshot.Host) {
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 7, Table: 52, Protocol: unix.RTPROT_KEEPALIVED})
		}, nil, []string{
			"needed rule rule 7: from all lookup 52 proto 18: it does not send the answers of an interface back there: replypath does not replace it @ keepalived",
			"needed table ipv4 table 52: rule 7: from all lookup 52 proto 18 leads to it and is needed @ keepalived",
		}},
		{"marks", testhost.And(marked, marks(onEth1)), nil, byMark(NotNeeded, "once replypath enforces on all interfaces: only what arrives by eth1 gets the mark, and replypath sends the replies")},
		{"marks that somebody else gives", testhost.And(marked, marks(onEth1, netfilter.Rule{Marks: []uint32{1}, Gives: []uint32{1}})), nil,
			byMark(Needed, "what else than packets from eth1 has the mark is not known")},
		{"marks of a map", testhost.And(marked, marks(onEth1, netfilter.Rule{GivesUnknown: true})), nil,
			byMark(Needed, "what else than packets from eth1 has the mark is not known")},
		{"marks that nobody gives", testhost.And(marked, marks()), nil, byMark(Needed, "what else than packets from eth1 has the mark is not known")},
		{"marks of what is forwarded", testhost.And(marked, marks(onEth1), testhost.Set(map[string]int{"net.ipv4.conf.all.forwarding": 1})), nil,
			byMark(Needed, "this host forwards, and what it forwards may have the mark")},
		{"marks of a socket", testhost.And(marked, marks(onEth1)), []func(*planner){func(p *planner) { p.judgeOf.marks = []uint32{1} }},
			byMark(Needed, "a socket gives its packets the mark (SO_MARK)")},
		{"marks of iptables-legacy", testhost.And(marked, marks(onEth1), func(h *snapshot.Host) { h.Firewall.Legacy = []string{"ip mangle"} }), nil,
			byMark(Needed, "iptables-legacy is in use: what else has the mark is not known")},
		{"replies would go where replypath sees nothing", bySource, []func(*planner){row("docker9")}, needed("without it replies to 10.1.0.0/24 would go by docker9, where replypath sees nothing")},
		{"the firewall drops by the interface of the default route", testhost.And(bySource, testhost.DropsBy("eth0")), nil, needed("without it the firewall may drop replies before they are moved: inet t c, rule 4: by the outgoing interface (eth0)")},
		{"the firewall drops by all but eth1", testhost.And(bySource, testhost.DropsBy("*")), nil, needed("without it the firewall may drop replies before they are moved: inet t c, rule 4: by the outgoing interface (*)")},
		{"the firewall cannot be read", testhost.And(bySource, func(h *snapshot.Host) { h.Unread = map[string]string{snapshot.PartFirewall: "CAP_NET_ADMIN"} }), nil, needed("what the firewall does with replies whose route leads elsewhere is not known")},
		{"marks, and the firewall drops by the interface of the default route", testhost.And(marked, marks(onEth1), testhost.DropsBy("eth0")), nil,
			byMark(Needed, "without it the firewall may drop replies before they are moved: inet t c, rule 4: by the outgoing interface (eth0)")},
		{"replies would be refused", bySource, []func(*planner){row(kernelroute.Refused)}, needed("without it replies to 10.1.0.0/24 would be refused by a route")},
		{"replies would have no route, but replypath's", bySource, []func(*planner){row(kernelroute.None)}, []string{without, told}},
		{"a route refuses", testhost.And(bySource, testhost.Route(testhost.Refusing(unix.RTN_BLACKHOLE, "10.0.0.0/8"))), nil, needed("blackhole 10.0.0.0/8 refuses replies")},
		{"its route has a smaller MTU", testhost.And(bySource, testhost.Limited(100, dump.Limits{MTU: 1400})), nil, needed("default via 10.4.0.1 dev eth1 table 100 has an MTU of 1400, and replypath sends what eth1 takes, 1500")},
		{"its route announces a smaller MSS", testhost.And(bySource, testhost.Limited(100, dump.Limits{MSS: 1300})), nil, needed("default via 10.4.0.1 dev eth1 table 100 announces an MSS of 1300, which replypath does not")},
		{"its route encapsulates", testhost.And(bySource, testhost.Limited(100, dump.Limits{Encapsulates: true})), nil, needed("default via 10.4.0.1 dev eth1 table 100 encapsulates replies")},
		{"its route has another window", testhost.And(bySource, testhost.Limited(100, dump.Limits{Others: true})), nil, needed("default via 10.4.0.1 dev eth1 table 100 has metrics that replies would not have without it")},
		{"its route limits nothing", testhost.And(bySource, testhost.Limited(100, dump.Limits{MTU: 1500, MSS: 1460})), nil, []string{without, told}},
		{"another rule refuses", testhost.And(bySource, testhost.Rule(snapshot.Rule{Priority: 200, Src: testhost.Prefix("10.0.0.0/8"), Refuses: "prohibit"})), nil, []string{
			"needed" + rule + "rule 200: from 10.0.0.0/8 prohibit refuses replies",
			"needed rule rule 200: from 10.0.0.0/8 prohibit: it refuses what it matches, and replypath respects that", leads,
		}},
		{"a VPN takes everything else", testhost.And(bySource, func(h *snapshot.Host) {
			h.Devices = append(h.Devices, snapshot.Device{Index: 9, Name: "wg0"})
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 200, Mark: 51820, Mask: snapshot.AllBits, Invert: true, Table: 51820})
			h.Routes = append(h.Routes, testhost.InTable(testhost.Via("", 9), 51820))
		}), nil, []string{
			"needed" + rule + "rule 200: not from all fwmark 0xca6c lookup 51820 leads replies by wg0, where nothing catches them",
			"needed rule rule 200: not from all fwmark 0xca6c lookup 51820: it does not send the answers of an interface back there: replypath does not replace it", leads,
			"needed table ipv4 table 51820: rule 200: not from all fwmark 0xca6c lookup 51820 leads to it and is needed",
		}},
		{"one hop of the default route is not managed", testhost.And(bySource, func(h *snapshot.Host) {
			h.Devices = append(h.Devices, snapshot.Device{Index: 9, Name: "wg0"})
			h.Routes = append(h.Routes, testhost.Via("10.9.0.1", 9))
		}), nil, needed("the default route leads by wg0, where nothing catches replies")},
		{"the source decides, but perhaps for another gateway", testhost.And(bySource, strong, func(h *snapshot.Host) {
			for _, address := range []string{"10.4.0.1", "10.4.0.2"} {
				h.Gateways = append(h.Gateways, nexthop.Gateway{Interface: testhost.Eth1, Address: testhost.Address(address), IPv4: true, Reach4: nexthop.Reach{Everything: true}})
			}
		}), []func(*planner){having(toPeer)}, opened("this host has 1 connection open from 10.4.0.100; of the gateways of eth1 host_model: strong may take another than its table")},
		{"the source decides, but not about tunnels", testhost.And(bySource, strong), []func(*planner){having(tunnel)}, opened("this host has 1 connection open from 10.4.0.100; host_model: strong would send listed protocols by eth1")},
		{"a socket that may ask", bySource, []func(*planner){having(mayAsk)}, needed("1 socket of this host may send first from 10.4.0.100; host_model: strong would send listed protocols by eth1")},
		{"what was seen lacks something", bySource, []func(*planner){func(p *planner) { p.judgeOf.forgotten = true }}, needed("what this host opened from 10.4.0.100 is not known completely; host_model: strong would send listed protocols by eth1")},
		{"what was seen lacks something, but the source decides", testhost.And(bySource, strong), []func(*planner){func(p *planner) { p.judgeOf.forgotten = true }}, decides},
		{"a network, on a router", testhost.And(testhost.Rule(snapshot.Rule{Priority: 100, Src: testhost.Prefix("10.4.0.0/24"), Table: 100}),
			testhost.Set(map[string]int{"net.ipv4.conf.all.forwarding": 1})), nil, []string{
			"needed rule rule 100: from 10.4.0.0/24 lookup 100: this host forwards, and 10.4.0.0/24 may be the source of what it forwards",
			"needed" + table + "rule 100: from 10.4.0.0/24 lookup 100 leads to it and is needed",
		}},
		{"enforcing is blocked", bySource, []func(*planner){func(p *planner) { p.blocked = []finding.Finding{{Check: "rp-filter"}} }}, needed("enforcing is blocked (rp-filter); without that: once replypath enforces on all interfaces: replypath sends the replies, and this host opened nothing from 10.4.0.100 now")},
		{"somebody else's rule leads to the table", testhost.And(bySource, func(h *snapshot.Host) {
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 201, Mark: 0x40000, Mask: 0xff0000, Table: 100})
		}), nil, []string{
			without, "needed rule rule 201: from all fwmark 0x40000/0xff0000 lookup 100: it does not send the answers of an interface back there: replypath does not replace it",
			"needed" + table + "rule 201: from all fwmark 0x40000/0xff0000 lookup 100 leads to it and is needed",
		}},
		{"two tables with the gateway", testhost.And(bySource, testhost.Rule(snapshot.Rule{Priority: 101, Src: testhost.Prefix("10.4.0.0/24"), Table: 102}), func(h *snapshot.Host) {
			h.Routes = append(h.Routes, testhost.InTable(testhost.Via("10.4.0.1", testhost.Eth1), 102))
		}), nil, []string{
			without, strings.Replace(strings.ReplaceAll(without, "10.4.0.100", "10.4.0.0/24"), "rule 100: from 10.4.0.0/24 lookup 100", "rule 101: from 10.4.0.0/24 lookup 102", 1),
			told, strings.Replace(told, "table 100", "table 102", 1),
		}},
		{"the table of a VRF", testhost.And(bySource, func(h *snapshot.Host) {
			h.Devices = append(h.Devices, snapshot.Device{Index: 9, Name: "blue", VRFTable: 100})
		}), nil, []string{without, "needed" + table + "it is the table of blue"}},
		{"a mark of what comes from a bridge", testhost.And(testhost.Rule(snapshot.Rule{Priority: 100, Mark: 1, Mask: snapshot.AllBits, IIF: "br0", Table: 100}), marks(onEth1)), nil, []string{
			"needed rule rule 100: from all fwmark 0x1 iif br0 lookup 100: it has conditions beside the mark, for something else than replies",
			"needed mark chain inet marks out: it has conditions beside the mark, for something else than replies",
			"needed" + table + "rule 100: from all fwmark 0x1 iif br0 lookup 100 leads to it and is needed",
		}},
		{"a static route", func(h *snapshot.Host) {
			r := testhost.Via("10.4.0.1", testhost.Eth1)
			r.Dst, r.Protocol = testhost.Prefix("10.5.0.0/16"), unix.RTPROT_BOOT
			h.Routes = append(h.Routes, r)
			asked(h)
		}, nil, []string{"needed route route 10.5.0.0/16 via 10.4.0.1 dev eth1: what this host opens to there goes by it: replypath sends replies without it (1, 10.5.0.0/24)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			await.Same(t, "plan", test.want, planned(test.change, test.more...))
		})
	}
}

// TestFirstLine: the plan is not glad of what doctor warns of, and what enforcing mends is something to do.
func TestFirstLine(t *testing.T) {
	down := func(h *snapshot.Host) { h.Interfaces[1].Up = false }
	observes := testhost.And(testhost.Enforces, func(h *snapshot.Host) { h.Enforcing = nil })
	for _, test := range []struct {
		name   string
		change func(*snapshot.Host)
		want   string
	}{
		{"in order", nil, "nothing to do here"},
		{"eth1 is down", down, "nothing to do here; doctor has 1 warning"},
		{"replies leave by eth0", func(h *snapshot.Host) {
			h.OwnWays = []snapshot.OwnWay{{Address: testhost.Prefix("10.4.0.100/24"), On: "eth1", By: "eth0", Device: testhost.Eth0}}
		}, "ready: replypath try"},
		{"enforced already, eth1 is down", testhost.And(testhost.Enforces, down, func(h *snapshot.Host) {
			h.OwnWays = []snapshot.OwnWay{{Address: testhost.Prefix("10.4.0.100/24"), On: "eth1", By: "eth0", Device: testhost.Eth0}}
		}), "nothing to do here; doctor has 1 warning"},
		{"only observed", testhost.And(observes, testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonObserve, Flows: 1})),
			"ready: replypath mode enforce"},
		{"only observed, and they arrive", testhost.And(observes, testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonObserve, Flows: 1, Arrived: 1})),
			"nothing to do here"},
		{"an unmanaged way out", testhost.And(testhost.Enforces, testhost.Wrong(snapshot.WrongWay{From: "tun9", To: "eth1", Reason: snapshot.ReasonNotManaged, Flows: 1})),
			"blocked: wrong-way: replies of eth1 leave by tun9: 1 live flow, reason not_managed: replypath is not attached there"},
	} {
		await.Same(t, test.name, test.want, newPlanner(test.change).plan().Summary)
	}
}
