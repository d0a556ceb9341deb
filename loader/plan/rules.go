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
	"replypath/loader/doctor/netfilter"
	"replypath/loader/doctor/opened"
	"replypath/loader/doctor/owners"
	"replypath/loader/doctor/routing"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/history"
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

// others finds what else than replies marks may be for: what is forwarded, and sockets.
func (p *planner) others() error {
	for name, protocol := range map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP} {
		list, err := opened.Sockets(name, protocol)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.Mark != 0 {
				p.marks = append(p.marks, s.Mark)
			}
		}
	}
	for _, family := range snapshot.Families {
		err := netfilter.Tracked(uint8(family), func(u snapshot.Use) {
			if !p.IsOwn(u.Local.Addr()) && !p.IsOwn(u.Remote.Addr()) && !u.Remote.Addr().IsMulticast() {
				p.forwarded++
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
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
		judged := p.judge(r)
		judged.Rule, judged.Kind, judged.table, judged.family = r.String(), KindRule, r.Table, r.Family
		judged.Owner = finding.OrNil(cmp.Or(finding.OrEmpty(judged.Owner), owners.OfRule(&p.Routing, r)))
		list = append(list, judged)
		for _, chain := range routing.RestoringChains(p.Host, r) {
			marks[chain] = worst(marks[chain], judged)
		}
	}
	return slices.Concat(list, p.chains(marks), p.tables(list), p.routes())
}

// worst is of two verdicts the one that keeps more.
func worst(a, b Rule) Rule {
	if a.Verdict == "" || a.Verdict != Needed && b.Verdict == Needed {
		return b
	}
	return a
}

// judge tells what a rule is for.
func (p *planner) judge(r *snapshot.Rule) Rule {
	if i := p.AnswersBySource(r); i != nil {
		return p.bySource(r, i)
	}
	if owner := owners.OfKnownRule(r); owner != "" {
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
	answers := p.answers(func(self netip.Addr) bool { return r.Src.Contains(self) }, i)
	opened := p.OpenedNeeding(r, i)
	judged := Rule{Verdict: Needed, Connections: answers.count + len(opened), Peers: answers.with(opened)}
	past := p.openedBefore(r, i)
	from := snapshot.OrAll(r.Src)
	switch why := routing.NeedsRules(p.Host, r.Family); {
	case why != "":
		judged.Reason = why
	case p.OpenedUnknown(r, i) != "":
		judged.Reason = fmt.Sprintf("what this host opens from %s is not known: %s", from, p.OpenedUnknown(r, i))
	case len(opened) > 0:
		judged.Reason = fmt.Sprintf("this host has %s open from %s; host_model: strong would send them by %s", counted(len(opened), "connection"), from, i.Name)
	case past > 0:
		judged.Reason = fmt.Sprintf("this host opened %s from %s %s; host_model: strong would send them by %s",
			counted(past, "connection"), from, p.watched(), i.Name)
	case r.Src.IsSingleIP() && p.LeavesBySource(i, r.Src.Addr()):
		judged.Verdict, judged.Reason = NotNeeded, "replypath sends the replies, and by host_model: strong what this host opens"
	default:
		judged.Verdict = NotNeeded
		judged.Reason = fmt.Sprintf("replypath sends the replies; this host opened nothing from %s %s", from, p.watched())
	}
	judged.Reason += "; " + routing.WhereWritten(&p.Routing, r)
	return judged
}

// byMark tells of a rule by the mark of connections. Where the firewall gives the mark only to what comes in by the
// interface that the rule leads to, and nothing is forwarded, only replies have it.
func (p *planner) byMark(r *snapshot.Rule) Rule {
	index := slices.IndexFunc(p.Interfaces, func(i discover.Interface) bool { return p.LeavesBy(r.Family, r.Table, i.Index) })
	if index < 0 {
		return Rule{Verdict: Needed, Reason: fmt.Sprintf("table %s does not lead back by a managed interface", dump.TableName(r.Table))}
	}
	i := &p.Interfaces[index]
	answers := p.answers(func(self netip.Addr) bool { return p.is(self, r.Family) }, i)
	judged := Rule{Verdict: Needed, Connections: answers.count, Peers: answers.with(nil)}
	switch why := routing.NeedsRules(p.Host, r.Family); {
	case why != "":
		judged.Reason = why
	case len(p.Firewall.Legacy) > 0:
		judged.Reason = "iptables-legacy is in use: what else has the mark is not known"
	case !p.marksOnly(r, i):
		judged.Reason = fmt.Sprintf("what else than packets from %s has the mark is not known", i.Name)
	case slices.ContainsFunc(p.marks, r.SelectsMark):
		judged.Reason = "a socket gives its packets the mark (SO_MARK)"
	case p.forwarded > 0:
		judged.Reason = fmt.Sprintf("this host forwards %s, which may have the mark", counted(p.forwarded, "connection"))
	default:
		judged.Verdict = NotNeeded
		judged.Reason = fmt.Sprintf("only what arrives by %s gets the mark, and replypath sends the replies", i.Name)
	}
	judged.Reason += "; " + routing.WhereWritten(&p.Routing, r)
	return judged
}

// marksOnly tells whether the rules of the firewall give a mark only to what comes in by an interface.
func (p *planner) marksOnly(r *snapshot.Rule, i *discover.Interface) bool {
	gives := false
	for _, c := range p.Firewall.Chains {
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

func (p *planner) is(a netip.Addr, family int) bool { return a.Is4() == (family == unix.AF_INET) }

// openedBefore counts what the history has of connections that need a rule.
func (p *planner) openedBefore(r *snapshot.Rule, i *discover.Interface) int {
	sum := 0
	for _, row := range p.rows {
		if row.Originated && r.Src.Contains(row.Self) && !p.LeavesBySource(i, row.Self) {
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
		judged.Reason = "only rules lead to it that are not needed"
		if names := p.toldBy(family, table); len(names) > 0 {
			judged.Verdict = Needed
			judged.Reason = fmt.Sprintf("replypath learns the gateway of %s from it; with gateways: in the configuration it could go",
				strings.Join(names, ", "))
		}
	}
	return judged
}

// toldBy names the interfaces whose gateway no other table and no configuration names.
func (p *planner) toldBy(family, table int) []string {
	var names []string
	for _, i := range p.Interfaces {
		if len(i.Settings.Gateways) > 0 || !p.LeavesBy(family, table, i.Index) {
			continue
		}
		isElsewhere := func(r snapshot.Route) bool {
			return r.Family == family && r.Table != table && r.Device == i.Index && r.IsUnicast() && r.Gateway.IsValid()
		}
		if !slices.ContainsFunc(p.Routes, isElsewhere) {
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
		answers := p.answersTo(r.Dst)
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

// answers finds the flows of an interface with some own addresses.
func (p *planner) answers(isMeant func(self netip.Addr) bool, i *discover.Interface) (a answers) {
	for n := range p.Flows {
		f := &p.Flows[n]
		self, err := netip.ParseAddr(f.Self)
		if err == nil && f.Interface != nil && *f.Interface == i.Name && isMeant(self) {
			a.addFlow(f.Peer)
		}
	}
	return a
}

// answersTo finds the flows of peers in a network.
func (p *planner) answersTo(network netip.Prefix) (a answers) {
	for n := range p.Flows {
		if peer, err := netip.ParseAddr(p.Flows[n].Peer); err == nil && network.Contains(peer) {
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

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
