// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/kernelroute"
	"replypath/loader/netfilter"
)

// judge tells what rules are for, and whether replies need them once replypath enforces everywhere. It judges by the host as it is
// now, and by what is known of before.
type judge struct {
	*snapshot.Host
	rows      []snapshot.Row
	uses      []snapshot.Use // what this host has open from addresses that rules select by
	marks     []uint32       // that sockets give their packets
	lookedFor time.Duration  // how long somebody looked
	forgotten bool           // rows or uses lack something
}

// Verdicts of a Rule.
const (
	Needed    = "needed"
	NotNeeded = "not-needed" // once replypath enforces
	Foreign   = "foreign"    // somebody's, for another purpose than replies
)

// judgement is what a rule is for.
type judgement struct {
	verdict, reason string
	by              *discover.Interface        // that it sends answers back by; nil where it does something else
	isOf            func(self netip.Addr) bool // its answers have such an address
	opened          []snapshot.Use             // by this host, and would leave otherwise without it
}

// rule judges a rule.
func (j *judge) rule(r *snapshot.Rule) judgement {
	if i := j.AnswersBySource(r); i != nil {
		return j.bySource(r, i)
	}
	switch {
	case r.Refuses == "" && r.IIF == "" && !r.Invert && !r.Other && r.Table != 0 && j.HolderOf(r.Src) != nil && !j.Tables[snapshot.TableOf{Family: r.Family, Table: r.Table}]:
		return judgement{verdict: NotNeeded, reason: fmt.Sprintf("table %s has no route, as after a link that flapped: the rule does nothing now", dump.TableName(r.Table))}
	case r.IsVRFs():
		return judgement{verdict: Foreign, reason: "it gives each VRF its table"}
	case !r.Invert && r.IIF != "" && r.IIF != "lo" && r.Src.IsSingleIP() && j.IsOwn(r.Src.Addr()):
		return judgement{verdict: NotNeeded, reason: "it never matches: dev means iif, and what this host sends arrives by lo"}
	case len(restoringChains(j.Host, r)) > 0:
		return j.byMark(r)
	case r.Refuses != "":
		return judgement{verdict: Needed, reason: "it refuses what it matches, and replypath respects that"}
	}
	return judgement{verdict: Needed, reason: "it does not send the answers of an interface back there: replypath does not replace it"}
}

// bySource judges a rule that sends what has an address of an interface as source by that interface.
func (j *judge) bySource(r *snapshot.Rule, i *discover.Interface) judgement {
	judged := judgement{by: i, isOf: r.Src.Contains, opened: j.openedNeeding(r, i)}
	needed := cmp.Or(j.needs(r, i, judged.isOf), j.needsForOpened(r, i, judged.opened), j.needsForGateway(r, i))
	return judged.conclude(j, needed, "replypath sends the replies, "+j.opensWithout(r, i))
}

// conclude takes why a rule is needed, "" where it is not, and why it is not.
func (judged judgement) conclude(j *judge, needed, without string) judgement {
	judged.verdict, judged.reason = Needed, needed
	if needed == "" {
		judged.verdict, judged.reason = NotNeeded, without
		if !j.EnforcesAll() {
			judged.reason = "once replypath enforces on all interfaces: " + without
		}
	}
	return judged
}

// needs says why replies of own addresses of an interface need a rule also if replypath enforces, "" where they do not.
func (j *judge) needs(r *snapshot.Rule, i *discover.Interface, isMeant func(netip.Addr) bool) string {
	if why := cmp.Or(needsRules(j.Host, r.Family), shieldedBy(j.Host, r), limitedBy(j.Host, r), refusedWithout(j.Host, r.Family)); why != "" {
		return why
	}
	for n := range j.rows {
		row := &j.rows[n]
		if row.Originated || !isMeant(row.Self) || row.FromInterface == kernelroute.None && j.Config.FallbackRoute {
			continue
		}
		if row.FromInterface == kernelroute.Refused {
			return fmt.Sprintf("without it replies to %s would be refused by a route", row.Peer)
		}
		if !j.Sees(row.FromInterface) {
			return fmt.Sprintf("without it replies to %s would go by %s, where replypath sees nothing", row.Peer, row.FromInterface)
		}
	}
	return ""
}

// connected are those with a peer.
func connected(uses []snapshot.Use) []snapshot.Use {
	return slices.DeleteFunc(slices.Clone(uses), func(u snapshot.Use) bool { return !u.Remote.IsValid() })
}

// needsForOpened says why what this host opens needs a rule, "" where it does not.
func (j *judge) needsForOpened(r *snapshot.Rule, i *discover.Interface, opened []snapshot.Use) string {
	from, past := snapshot.OrAll(r.Src), j.openedBefore(r, i)
	strong := fmt.Sprintf("; host_model: strong would send listed protocols by %s", i.Name)
	if j.hasSeveralGateways(i, r.Family) {
		strong = fmt.Sprintf("; of the gateways of %s host_model: strong may take another than its table", i.Name)
	}
	connections := connected(opened)
	switch {
	case !r.Src.IsSingleIP() && j.Forwards(r.Family):
		return fmt.Sprintf("this host forwards, and %s may be the source of what it forwards", from)
	case len(connections) > 0:
		return fmt.Sprintf("this host has %s open from %s%s", finding.Counted(len(connections), "connection", "connections"), from, strong)
	case len(opened) > 0:
		return fmt.Sprintf("%s of this host may send first from %s%s", finding.Counted(len(opened), "socket", "sockets"), from, strong)
	case past > 0:
		return fmt.Sprintf("this host opened %s from %s %s%s", finding.Counted(past, "connection", "connections"), from, j.watched(), strong)
	case !j.leavesAllBySource(r, i) && j.forgotten:
		return fmt.Sprintf("what this host opened from %s is not known completely%s", from, strong)
	}
	return ""
}

// needsForGateway says which setting of an interface needs a rule, "" for none: only tables that rules lead to tell of gateways.
// By next_hop: auto a reply goes to the MAC that its question came from where no gateway is known.
func (j *judge) needsForGateway(r *snapshot.Rule, i *discover.Interface) string {
	setting := ""
	switch {
	case i.Settings.HostModel == config.HostModelStrong:
		setting = "host_model: strong"
	case i.Settings.NextHop == config.NextHopGateway:
		setting = "next_hop: gateway"
	}
	if setting == "" || !slices.Contains(toldBy(j.Host, r.Family, r.Table), i.Name) {
		return ""
	}
	return fmt.Sprintf("%s sends to the gateway of %s, which table %s names: with gateways: in the configuration both could go",
		setting, i.Name, dump.TableName(r.Table))
}

// toldBy names the interfaces whose gateway neither the main table nor the configuration names.
func toldBy(h *snapshot.Host, family, table int) []string {
	var names []string
	for _, i := range h.Interfaces {
		isConfigured := func(a netip.Addr) bool { return a.Is4() == (family == unix.AF_INET) }
		if slices.ContainsFunc(i.Settings.Gateways, isConfigured) || !h.LeavesBy(family, table, i.Index) {
			continue
		}
		isToldElsewhere := func(gateway netip.Addr) bool {
			return slices.ContainsFunc(h.Routes, func(r snapshot.Route) bool {
				return r.Family == family && r.Table == unix.RT_TABLE_MAIN && r.Device == i.Index && r.Gateway == gateway
			})
		}
		isTold := func(r snapshot.Route) bool {
			return r.Family == family && r.Table == table && r.Device == i.Index && r.IsDefault() && r.Gateway.IsValid() && !isToldElsewhere(r.Gateway)
		}
		if slices.ContainsFunc(h.Routes, isTold) {
			names = append(names, i.Name)
		}
	}
	return names
}

// opensWithout says why what this host opens does not need a rule.
func (j *judge) opensWithout(r *snapshot.Rule, i *discover.Interface) string {
	if j.leavesAllBySource(r, i) {
		return "and by host_model: strong what this host opens"
	}
	isRelated := func(row snapshot.Row) bool { return row.Originated && r.Src.Contains(row.Self) && j.relates(&row) }
	if j.openedRelated(r) || slices.ContainsFunc(j.rows, isRelated) {
		return fmt.Sprintf("and what this host opened from %s %s is related to what its peers began", snapshot.OrAll(r.Src), j.watched())
	}
	return fmt.Sprintf("and this host opened nothing from %s %s", snapshot.OrAll(r.Src), j.watched())
}

// byMark judges a rule by the mark of connections. Where the firewall gives the mark only to what comes in by the
// interface that the rule leads to, and nothing is forwarded, only replies have it.
func (j *judge) byMark(r *snapshot.Rule) judgement {
	index := slices.IndexFunc(j.Interfaces, func(i discover.Interface) bool { return j.LeavesBy(r.Family, r.Table, i.Index) })
	if index < 0 {
		return judgement{verdict: Needed, reason: fmt.Sprintf("table %s does not lead back by a managed interface", dump.TableName(r.Table))}
	}
	i := &j.Interfaces[index]
	judged := judgement{by: i, isOf: func(self netip.Addr) bool { return snapshot.FamilyOf(netip.PrefixFrom(self, 0)) == r.Family }}
	return judged.conclude(j, cmp.Or(j.needs(r, i, judged.isOf), j.otherMarks(r, i)),
		fmt.Sprintf("only what arrives by %s gets the mark, and replypath sends the replies", i.Name))
}

// otherMarks says what else than replies of an interface may have the mark of a rule, "" for nothing.
func (j *judge) otherMarks(r *snapshot.Rule, i *discover.Interface) string {
	isOthers := func(h snapshot.Hook) bool { return h.Interface == i.Index && !h.Ours }
	switch {
	case r.IIF != "" || r.OIF != "" || r.Other:
		return "it has conditions beside the mark, for something else than replies"
	case len(j.Firewall.Legacy) > 0:
		return "iptables-legacy is in use: what else has the mark is not known"
	case j.Unread[snapshot.PartFirewall] != "" || j.Unread[snapshot.PartHooks] != "":
		return "what else has the mark may not be read"
	case !marksOnly(&j.Firewall, r, i) || slices.ContainsFunc(j.Hooks, isOthers):
		return fmt.Sprintf("what else than packets from %s has the mark is not known", i.Name)
	case slices.ContainsFunc(j.marks, r.SelectsMark):
		return "a socket gives its packets the mark (SO_MARK)"
	case j.Forwards(r.Family):
		return "this host forwards, and what it forwards may have the mark"
	}
	return ""
}

// marksOnly tells whether the rules of the firewall give a mark only to what comes in by an interface.
func marksOnly(f *netfilter.Ruleset, r *snapshot.Rule, i *discover.Interface) bool {
	gives := false
	for _, c := range f.Chains {
		for _, rule := range c.Rules {
			if !rule.GivesUnknown && !slices.ContainsFunc(rule.Gives, r.SelectsMark) {
				continue
			}
			if len(rule.In) != 1 || rule.In[0] != i.Name {
				return false
			}
			gives = true
		}
	}
	return gives
}

// openedBefore counts the connections that were seen and need a rule.
func (j *judge) openedBefore(r *snapshot.Rule, i *discover.Interface) int {
	sum := 0
	for _, row := range j.rows {
		if row.Originated && r.Src.Contains(row.Self) && !j.relates(&row) && (j.hasSeveralGateways(i, r.Family) || !j.leaves(i, &row)) {
			sum += int(row.Flows)
		}
	}
	return sum
}

// leaves tells whether the strong host model sends what a row has.
func (j *judge) leaves(i *discover.Interface, r *snapshot.Row) bool {
	protocol, err := config.Protocol(r.Protocol)
	return err == nil && j.leavesBySource(i, r.Self, protocol)
}

// relates tells whether what a row has goes as answers to its peers go.
func (j *judge) relates(r *snapshot.Row) bool {
	protocol, err := config.Protocol(r.Protocol)
	return err == nil && j.goesRelated(r.Related, protocol)
}

// watched says for how long it was looked.
func (j *judge) watched() string {
	if text := Shortly(j.lookedFor); text != "" {
		return "in the " + text + " watched"
	}
	return "now"
}

// Shortly is a duration in its largest unit, "" for less than a second.
func Shortly(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if n := d / unit.length; n > 0 {
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	return ""
}

// leavesBySource tells whether the strong host model sends packets of a protocol that have an address as source by an
// interface, which is the only one that has it. What the configuration does not list as protocols goes as routed.
func (j *judge) leavesBySource(i *discover.Interface, a netip.Addr, protocol uint8) bool {
	return i.Settings.HostModel == config.HostModelStrong && slices.Contains(j.Config.Protocols, protocol) &&
		slices.Contains(j.Own, discover.OwnAddress{Address: a, Interface: i.Index})
}

// hasSeveralGateways tells whether an interface has several gateways of everything in a family. What is opened by it goes to
// the one of its source, which need not be the one that a table names.
func (j *judge) hasSeveralGateways(i *discover.Interface, family int) bool {
	count := 0
	for _, g := range j.Gateways {
		if g.Interface == i.Index && g.Reach(family).Everything {
			count++
		}
	}
	return count > 1
}

// leavesAllBySource tells whether the strong host model does all that a rule does for what this host opens. TCP stands for
// all protocols: where one of the usual ones is not listed, rules are needed anyhow.
func (j *judge) leavesAllBySource(r *snapshot.Rule, i *discover.Interface) bool {
	return r.Src.IsSingleIP() && !j.hasSeveralGateways(i, r.Family) && j.leavesBySource(i, r.Src.Addr(), config.ProtocolTCP)
}

// goesRelated tells whether what is related, of a protocol, goes as answers to its peer go.
func (j *judge) goesRelated(isRelated bool, protocol uint8) bool {
	return isRelated && j.Config.Related && slices.Contains(j.Config.Protocols, protocol)
}

// openedRelated tells whether this host opened something related from the addresses of a rule.
func (j *judge) openedRelated(r *snapshot.Rule) bool {
	return slices.ContainsFunc(j.uses, func(u snapshot.Use) bool {
		return r.Src.Contains(u.Local.Addr()) && j.goesRelated(u.Related, u.Protocol)
	})
}

// openedNeeding returns what this host opened from the addresses of a rule for an interface that would leave otherwise
// without it.
func (j *judge) openedNeeding(r *snapshot.Rule, i *discover.Interface) []snapshot.Use {
	var list []snapshot.Use
	for _, u := range j.uses {
		if !u.Over && r.Src.Contains(u.Local.Addr()) && !j.goesRelated(u.Related, u.Protocol) && (j.hasSeveralGateways(i, r.Family) || !j.leavesBySource(i, u.Local.Addr(), u.Protocol)) {
			list = append(list, u)
		}
	}
	return list
}
