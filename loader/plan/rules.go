// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/opened"
	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/routing"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/history"
	"replypath/loader/netfilter"
)

// Rule is something that leads packets elsewhere than the main table does. The JSON names are fixed.
type Rule struct {
	Rule        string   `json:"rule"`
	Kind        string   `json:"kind"`
	Verdict     string   `json:"verdict"`
	Reason      string   `json:"reason"`
	Owner       *string  `json:"owner"`       // nil where nothing tells
	Connections int      `json:"connections"` // that use it, replies included
	Peers       []string `json:"peers"`       // some of the networks that they are with

	table, family int // that it leads to
}

// Kinds of what leads packets.
const (
	KindRule  = "rule"
	KindMark  = "mark"  // a chain that brings back the mark of a connection
	KindTable = "table" // of routes
	KindRoute = "route" // of the main table, static
)

// Verdicts of a Rule.
const (
	Needed    = "needed"
	NotNeeded = "not-needed" // once replypath enforces
	Foreign   = "foreign"    // somebody's, for another purpose than replies
)

// marksOfSockets are those that sockets give their packets.
func marksOfSockets() (marks []uint32, _ error) {
	for name, protocol := range map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP} {
		list, err := opened.Sockets(name, protocol)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if s.Mark != 0 {
				marks = append(marks, s.Mark)
			}
		}
	}
	return marks, nil
}

// rules judges all that there is: the rules, then the chains, tables and routes that they belong to.
func (p *planner) rules() []Rule {
	var list []Rule
	marks := map[string]Rule{}
	for n := range p.Rules {
		r := &p.Rules[n]
		if r.IsKernels() || !p.HasFamily(r.Family) {
			continue
		}
		judged := p.unlessBlocked(p.judge(r))
		judged.Rule, judged.Kind, judged.table, judged.family = r.String(), KindRule, r.Table, r.Family
		judged.Owner = finding.OrNil(cmp.Or(finding.OrEmpty(judged.Owner), owners.OfRule(r)))
		list = append(list, judged)
		for _, chain := range routing.RestoringChains(p.Host, r) {
			marks[chain] = worst(marks[chain], judged)
		}
	}
	return slices.Concat(list, p.chains(marks), p.tables(list), p.routes())
}

// worst is of two verdicts the one that keeps more.
func worst(a, b Rule) Rule {
	keeps := []string{"", NotNeeded, Foreign, Needed}
	if slices.Index(keeps, b.Verdict) > slices.Index(keeps, a.Verdict) {
		return b
	}
	return a
}

// unlessBlocked has what replypath would do be needed until it can do so.
func (p *planner) unlessBlocked(judged Rule) Rule {
	if judged.Verdict == NotNeeded && len(p.blocked) > 0 {
		judged.Verdict = Needed
		judged.Reason = fmt.Sprintf("enforcing is blocked (%s); without that: %s", p.blocked[0].Check, judged.Reason)
	}
	return judged
}

// onceEnforced is what a reason begins with where replypath does not enforce yet.
func (p *planner) onceEnforced() string {
	if p.enforcesAll() {
		return ""
	}
	return "once replypath enforces on all interfaces: "
}

// judge tells what a rule is for.
func (p *planner) judge(r *snapshot.Rule) Rule {
	if i := p.AnswersBySource(r); i != nil {
		return p.bySource(r, i)
	}
	if owner := owners.OfRule(r); owner != "" {
		return Rule{Verdict: Foreign, Reason: "it is of " + owner + ", for its own packets", Owner: &owner}
	}
	switch {
	case r.IsVRFs():
		return Rule{Verdict: Foreign, Reason: "it gives each VRF its table", Owner: new("the kernel's VRFs")}
	case routing.NeverMatches(&p.Links, r):
		return Rule{Verdict: NotNeeded, Reason: "it never matches: what this host sends arrives by lo"}
	case len(routing.RestoringChains(p.Host, r)) > 0:
		return p.byMark(r)
	case r.Refuses != "":
		return Rule{Verdict: Needed, Reason: "it refuses what it matches, and replypath respects that"}
	}
	return Rule{Verdict: Needed, Reason: "it does not send the answers of an interface back there: replypath does not replace it"}
}

// bySource tells of a rule that sends what has an address of an interface as source by that interface.
func (p *planner) bySource(r *snapshot.Rule, i *discover.Interface) Rule {
	answers := answersOf(p.Flows, r.Src.Contains, i)
	opened := p.OpenedNeeding(r, i)
	judged := Rule{Verdict: Needed, Connections: answers.count + len(connected(opened)), Peers: answers.with(opened)}
	if judged.Reason = p.needs(r, r.Src.Contains); judged.Reason == "" {
		judged.Reason = p.needsForOpened(r, i, opened)
	}
	if judged.Reason == "" {
		judged.Verdict = NotNeeded
		judged.Reason = p.onceEnforced() + "replypath sends the replies, " + p.opensWithout(r, i)
	}
	judged.Reason += routing.WhereWritten(p.Host, r)
	return judged
}

// needs says why replies of own addresses need a rule also if replypath enforces, "" where they do not.
func (p *planner) needs(r *snapshot.Rule, isMeant func(netip.Addr) bool) string {
	if why := cmp.Or(routing.NeedsRules(p.Host, r.Family), routing.ShieldedBy(p.Host, r), routing.LimitedBy(p.Host, r)); why != "" {
		return why
	}
	for n := range p.rows {
		row := &p.rows[n]
		if row.Originated || !isMeant(row.Self) || row.FromInterface == history.None && p.Config.FallbackRoute {
			continue
		}
		if row.FromInterface == history.Refused {
			return fmt.Sprintf("without it replies to %s would be refused by a route", row.Peer)
		}
		if !p.Sees(row.FromInterface) {
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
func (p *planner) needsForOpened(r *snapshot.Rule, i *discover.Interface, opened []snapshot.Use) string {
	from, past := snapshot.OrAll(r.Src), p.openedBefore(r, i)
	strong := fmt.Sprintf("; host_model: strong would send listed protocols by %s", i.Name)
	if p.HasSeveralGateways(i, r.Family) {
		strong = fmt.Sprintf("; of the gateways of %s host_model: strong may take another than its table", i.Name)
	}
	connections := connected(opened)
	switch {
	case !r.Src.IsSingleIP() && p.Forwards(r.Family):
		return fmt.Sprintf("this host forwards, and %s may be the source of what it forwards", from)
	case p.UsesError != "":
		return fmt.Sprintf("what this host opens from %s is not known: %s", from, p.UsesError)
	case len(connections) > 0:
		return fmt.Sprintf("this host has %s open from %s%s", counted(len(connections), "connection", "connections"), from, strong)
	case len(opened) > 0:
		return fmt.Sprintf("%s of this host may send first from %s%s", counted(len(opened), "socket", "sockets"), from, strong)
	case past > 0:
		return fmt.Sprintf("this host opened %s from %s %s%s", counted(past, "connection", "connections"), from, p.watched(), strong)
	case !p.LeavesAllBySource(r, i) && (p.history.Incomplete || p.historyErr != nil):
		return fmt.Sprintf("what this host opened from %s is not known completely%s", from, strong)
	}
	return ""
}

// opensWithout says why what this host opens does not need a rule.
func (p *planner) opensWithout(r *snapshot.Rule, i *discover.Interface) string {
	if p.LeavesAllBySource(r, i) {
		return "and by host_model: strong what this host opens"
	}
	isRelated := func(row history.Row) bool { return row.Originated && r.Src.Contains(row.Self) && p.goesRelated(&row) }
	if p.OpenedRelated(r) || slices.ContainsFunc(p.rows, isRelated) {
		return fmt.Sprintf("and what this host opened from %s %s is related to what its peers began", snapshot.OrAll(r.Src), p.watched())
	}
	return fmt.Sprintf("and this host opened nothing from %s %s", snapshot.OrAll(r.Src), p.watched())
}

// byMark tells of a rule by the mark of connections. Where the firewall gives the mark only to what comes in by the
// interface that the rule leads to, and nothing is forwarded, only replies have it.
func (p *planner) byMark(r *snapshot.Rule) Rule {
	index := slices.IndexFunc(p.Interfaces, func(i discover.Interface) bool { return p.LeavesBy(r.Family, r.Table, i.Index) })
	if index < 0 {
		return Rule{Verdict: Needed, Reason: fmt.Sprintf("table %s does not lead back by a managed interface", dump.TableName(r.Table))}
	}
	i := &p.Interfaces[index]
	isMeant := func(self netip.Addr) bool { return self.Is4() == (r.Family == unix.AF_INET) }
	answers := answersOf(p.Flows, isMeant, i)
	judged := Rule{Verdict: Needed, Connections: answers.count, Peers: answers.with(nil)}
	if judged.Reason = cmp.Or(p.needs(r, isMeant), p.otherMarks(r, i)); judged.Reason == "" {
		judged.Verdict = NotNeeded
		judged.Reason = fmt.Sprintf("%sonly what arrives by %s gets the mark, and replypath sends the replies", p.onceEnforced(), i.Name)
	}
	judged.Reason += routing.WhereWritten(p.Host, r)
	return judged
}

// otherMarks says what else than replies of an interface may have the mark of a rule, "" for nothing.
func (p *planner) otherMarks(r *snapshot.Rule, i *discover.Interface) string {
	isOthers := func(h snapshot.Hook) bool { return h.Interface == i.Index && !h.Ours }
	switch {
	case r.IIF != "" || r.OIF != "" || r.Other:
		return "it has conditions beside the mark, for something else than replies"
	case len(p.Firewall.Legacy) > 0:
		return "iptables-legacy is in use: what else has the mark is not known"
	case p.Unread[snapshot.PartFirewall] != "" || p.Unread[snapshot.PartHooks] != "":
		return "what else has the mark may not be read"
	case !marksOnly(&p.Firewall, r, i) || slices.ContainsFunc(p.Hooks, isOthers):
		return fmt.Sprintf("what else than packets from %s has the mark is not known", i.Name)
	case slices.ContainsFunc(p.marks, r.SelectsMark):
		return "a socket gives its packets the mark (SO_MARK)"
	case p.Forwards(r.Family):
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

// openedBefore counts what the history has of connections that need a rule.
func (p *planner) openedBefore(r *snapshot.Rule, i *discover.Interface) int {
	sum := 0
	for _, row := range p.rows {
		if row.Originated && r.Src.Contains(row.Self) && !p.goesRelated(&row) && (p.HasSeveralGateways(i, r.Family) || !p.leavesBySource(i, &row)) {
			sum += int(row.Flows)
		}
	}
	return sum
}

// chains tells of the chains that bring marks back: they are needed as what they are for.
func (p *planner) chains(marks map[string]Rule) []Rule {
	var list []Rule
	for chain, of := range marks {
		of.Rule, of.Kind, of.Owner = "chain "+chain, KindMark, nil
		if words := strings.Fields(chain); len(words) == 3 {
			of.Owner = finding.OrNil(owners.OfChain(words[1], words[2]))
		}
		list = append(list, of)
	}
	slices.SortFunc(list, func(a, b Rule) int { return cmp.Compare(a.Rule, b.Rule) })
	return list
}

// tables tells of the tables that rules lead to.
func (p *planner) tables(rules []Rule) []Rule {
	type key struct{ family, table int }
	var order []key
	worsts := map[key]Rule{}
	for _, r := range rules {
		k := key{r.family, r.table}
		if k.table == 0 || k.table >= unix.RT_TABLE_DEFAULT && k.table <= unix.RT_TABLE_LOCAL {
			continue
		}
		if _, seen := worsts[k]; !seen {
			order = append(order, k)
		}
		worsts[k] = worst(worsts[k], r)
	}
	var list []Rule
	for _, k := range order {
		list = append(list, p.table(k.family, k.table, worsts[k]))
	}
	return list
}

// table tells of a table that is led to by rules of which one is the worst.
func (p *planner) table(family, table int, of Rule) Rule {
	judged := Rule{
		Rule: fmt.Sprintf("%s table %s", snapshot.FamilyName[family], dump.TableName(table)), Kind: KindTable,
		Verdict: of.Verdict, Owner: of.Owner, Connections: of.Connections, Peers: of.Peers,
	}
	switch of.Verdict {
	case Needed:
		judged.Reason = of.Rule + " leads to it and is needed"
	case Foreign:
		judged.Reason = of.Rule + " leads to it"
	default:
		if vrf := vrfOf(&p.Links, table); vrf != "" {
			judged.Verdict, judged.Reason = Needed, "it is the table of "+vrf
			return judged
		}
		judged.Reason = "only rules lead to it that are not needed"
		if names := toldBy(p.Host, family, table); len(names) > 0 {
			judged.Verdict = Needed
			judged.Reason = fmt.Sprintf("replypath learns the gateway of %s from it; with gateways: in the configuration it could go",
				strings.Join(names, ", "))
		}
	}
	return judged
}

// vrfOf names the VRF that has a table, "" for none.
func vrfOf(l *snapshot.Links, table int) string {
	for _, d := range l.Devices {
		if d.VRFTable == table {
			return d.Name
		}
	}
	return ""
}

// toldBy names the interfaces whose gateway neither the main table nor the configuration names.
func toldBy(h *snapshot.Host, family, table int) []string {
	var names []string
	for _, i := range h.Interfaces {
		if len(i.Settings.Gateways) > 0 || !h.LeavesBy(family, table, i.Index) {
			continue
		}
		isToldElsewhere := func(gateway netip.Addr) bool {
			return slices.ContainsFunc(h.Routes, func(r snapshot.Route) bool {
				return r.Family == family && r.Table == unix.RT_TABLE_MAIN && r.Device == i.Index && r.Gateway == gateway
			})
		}
		isTold := func(r snapshot.Route) bool {
			return r.Family == family && r.Table == table && r.Device == i.Index && r.IsDefault() && !isToldElsewhere(r.Gateway)
		}
		if slices.ContainsFunc(h.Routes, isTold) {
			names = append(names, i.Name)
		}
	}
	return names
}

// routes tells of static routes, by which also goes what this host opens.
func (p *planner) routes() []Rule {
	var list []Rule
	for n := range p.Routes {
		r := &p.Routes[n]
		best := p.BestDefault(r.Family)
		if !r.IsStatic() || best != nil && best.Device == r.Device || p.Managed(r.Device) == nil {
			continue
		}
		answers := answersTo(p.Flows, r.Dst)
		list = append(list, Rule{
			Rule: "route " + routing.Show(&p.Links, r), Kind: KindRoute, Verdict: Needed, Owner: finding.OrNil(owners.OfRoute(r)),
			Reason: "what this host opens to there goes by it: replypath sends replies without it", Connections: answers.count,
			Peers: answers.with(nil),
		})
	}
	return list
}

// answers are flows of some kind that are alive.
type answers struct {
	count int
	peers []netip.Prefix
}

// mostPeers bounds how many networks are named.
const mostPeers = 3

func (a *answers) add(peer netip.Addr) {
	a.count++
	if network := history.NetworkOf(peer); !slices.Contains(a.peers, network) && len(a.peers) < mostPeers {
		a.peers = append(a.peers, network)
	}
}

// with names the networks of peers, and of what was opened.
func (a answers) with(uses []snapshot.Use) []string {
	for _, u := range uses {
		if u.Remote.IsValid() {
			a.add(u.Remote.Addr())
		}
	}
	names := []string{}
	for _, network := range a.peers {
		names = append(names, network.String())
	}
	return names
}

// answersOf finds the flows of an interface with some own addresses.
func answersOf(list []flows.Flow, isMeant func(self netip.Addr) bool, i *discover.Interface) (a answers) {
	for n := range list {
		f := &list[n]
		self, err := netip.ParseAddr(f.Self)
		if err == nil && f.Interface != nil && *f.Interface == i.Name && isMeant(self) {
			a.addFlow(f.Peer)
		}
	}
	return a
}

// answersTo finds the flows of peers in a network.
func answersTo(list []flows.Flow, network netip.Prefix) (a answers) {
	for n := range list {
		if peer, err := netip.ParseAddr(list[n].Peer); err == nil && network.Contains(peer) {
			a.add(peer)
		}
	}
	return a
}

func (a *answers) addFlow(text string) {
	if peer, err := netip.ParseAddr(text); err == nil {
		a.add(peer)
	}
}
