// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor/checks"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// planner makes a plan from what was read.
type planner struct {
	*snapshot.Host
	journal *pins.Journal // nil: nothing is pinned
	looks   *looks
	judgeOf judge
	blocked []finding.Finding // what keeps replypath from enforcing
	warned  int               // findings that enforcing does not mend
}

// Rule is something that leads packets elsewhere than the main table does. The JSON names are fixed.
type Rule struct {
	Rule        string   `json:"rule"`
	Kind        string   `json:"kind"`
	Verdict     string   `json:"verdict"`
	Reason      string   `json:"reason"`
	Owner       *string  `json:"owner"`       // nil where nothing tells
	Connections int      `json:"connections"` // that use it, replies included
	Peers       []string `json:"peers"`       // some of the networks that they are with
	Restore     *string  `json:"restore"`     // the command that puts a rule back which is not needed; else nil

	table, family int // that it leads to
}

// Kinds of what leads packets.
const (
	KindRule  = "rule"
	KindMark  = "mark"  // a chain that brings back the mark of a connection
	KindTable = "table" // of routes
	KindRoute = "route" // of the main table, static
)

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
		if judged.Verdict == NotNeeded {
			judged.Restore = new(restoring(r))
		}
		list = append(list, judged)
		for _, chain := range restoringChains(p.Host, r) {
			marks[chain] = worst(marks[chain], judged)
		}
	}
	return slices.Concat(list, p.chains(marks), p.tables(list), p.routes())
}

// restoring is the command that adds a rule.
func restoring(r *snapshot.Rule) string {
	command := "ip rule add pref "
	if r.Family == unix.AF_INET6 {
		command = "ip -6 rule add pref "
	}
	return command + strings.Replace(strings.TrimPrefix(r.String(), "rule "), ":", "", 1)
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

// judge judges a rule, and counts what uses it.
func (p *planner) judge(r *snapshot.Rule) Rule {
	j := p.judgeOf.rule(r)
	judged := Rule{Verdict: j.verdict, Reason: j.reason, Owner: finding.OrNil(r.Owner())}
	if j.by != nil {
		answers := answersOf(p.Flows, j.isOf, j.by)
		judged.Connections, judged.Peers = answers.count+len(connected(j.opened)), answers.with(j.opened)
	}
	return judged
}

// chains tells of the chains that bring marks back: they are needed as what they are for.
func (p *planner) chains(marks map[string]Rule) []Rule {
	var list []Rule
	for chain, of := range marks {
		of.Rule, of.Kind, of.Owner, of.Restore = "chain "+chain, KindMark, nil, nil
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
			Rule: "route " + checks.Show(&p.Links, r), Kind: KindRoute, Verdict: Needed,
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
	if network := snapshot.NetworkOf(peer); !slices.Contains(a.peers, network) && len(a.peers) < mostPeers {
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
		self, err1 := netip.ParseAddr(f.Self)
		peer, err2 := netip.ParseAddr(f.Peer)
		if errors.Join(err1, err2) == nil && f.Interface != nil && *f.Interface == i.Name && isMeant(self) {
			a.add(peer)
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
