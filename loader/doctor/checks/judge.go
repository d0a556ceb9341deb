// SPDX-License-Identifier: Apache-2.0

package checks

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
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/kernelroute"
	"replypath/loader/netfilter"
)

// Judge tells what rules are for, and whether replies need them once replypath enforces everywhere. It judges by the host as it is
// now, and by what is known of before.
type Judge struct {
	*snapshot.Host
	Rows      []snapshot.Row
	Watched   time.Duration // for how long somebody looked
	Forgotten bool          // Rows lack something
}

// Verdicts of a Judgement.
const (
	Needed    = "needed"
	NotNeeded = "not-needed" // once replypath enforces
	Foreign   = "foreign"    // somebody's, for another purpose than replies
)

// Judgement is what a rule is for.
type Judgement struct {
	Verdict, Reason string
	// For is the interface that it sends answers back by; nil where it does something else.
	For    *discover.Interface
	IsOf   func(self netip.Addr) bool // its answers have such an address
	Opened []snapshot.Use             // by this host, and would leave otherwise without it
}

// Rule judges a rule.
func (j *Judge) Rule(r *snapshot.Rule) Judgement {
	if i := j.AnswersBySource(r); i != nil {
		return j.bySource(r, i)
	}
	switch {
	case r.IsVRFs():
		return Judgement{Verdict: Foreign, Reason: "it gives each VRF its table"}
	case neverMatches(&j.Links, r):
		return Judgement{Verdict: NotNeeded, Reason: "it never matches: " + devMeansIIF}
	case len(RestoringChains(j.Host, r)) > 0:
		return j.byMark(r)
	case r.Refuses != "":
		return Judgement{Verdict: Needed, Reason: "it refuses what it matches, and replypath respects that"}
	}
	return Judgement{Verdict: Needed, Reason: "it does not send the answers of an interface back there: replypath does not replace it"}
}

// bySource judges a rule that sends what has an address of an interface as source by that interface.
func (j *Judge) bySource(r *snapshot.Rule, i *discover.Interface) Judgement {
	judged := Judgement{For: i, IsOf: r.Src.Contains, Opened: j.OpenedNeeding(r, i)}
	needed := cmp.Or(j.needs(r, i, judged.IsOf), j.needsForOpened(r, i, judged.Opened), j.needsForGateway(r, i))
	return judged.conclude(j, needed, "replypath sends the replies, "+j.opensWithout(r, i))
}

// conclude takes why a rule is needed, "" where it is not, and why it is not.
func (judged Judgement) conclude(j *Judge, needed, without string) Judgement {
	judged.Verdict, judged.Reason = Needed, needed
	if needed == "" {
		judged.Verdict, judged.Reason = NotNeeded, without
		if !j.EnforcesAll() {
			judged.Reason = "once replypath enforces on all interfaces: " + without
		}
	}
	return judged
}

// needs says why replies of own addresses of an interface need a rule also if replypath enforces, "" where they do not.
func (j *Judge) needs(r *snapshot.Rule, i *discover.Interface, isMeant func(netip.Addr) bool) string {
	if why := cmp.Or(needsRules(j.Host, r.Family), shieldedBy(j.Host, r), limitedBy(j.Host, r), refusedWithout(j.Host, r.Family)); why != "" {
		return why
	}
	for n := range j.Rows {
		row := &j.Rows[n]
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

// Connected are those with a peer.
func Connected(uses []snapshot.Use) []snapshot.Use {
	return slices.DeleteFunc(slices.Clone(uses), func(u snapshot.Use) bool { return !u.Remote.IsValid() })
}

// needsForOpened says why what this host opens needs a rule, "" where it does not.
func (j *Judge) needsForOpened(r *snapshot.Rule, i *discover.Interface, opened []snapshot.Use) string {
	from, past := snapshot.OrAll(r.Src), j.openedBefore(r, i)
	strong := fmt.Sprintf("; host_model: strong would send listed protocols by %s", i.Name)
	if j.HasSeveralGateways(i, r.Family) {
		strong = fmt.Sprintf("; of the gateways of %s host_model: strong may take another than its table", i.Name)
	}
	connections := Connected(opened)
	switch {
	case !r.Src.IsSingleIP() && j.Forwards(r.Family):
		return fmt.Sprintf("this host forwards, and %s may be the source of what it forwards", from)
	case j.UsesError != "":
		return fmt.Sprintf("what this host opens from %s is not known: %s", from, j.UsesError)
	case len(connections) > 0:
		return fmt.Sprintf("this host has %s open from %s%s", finding.Counted(len(connections), "connection", "connections"), from, strong)
	case len(opened) > 0:
		return fmt.Sprintf("%s of this host may send first from %s%s", finding.Counted(len(opened), "socket", "sockets"), from, strong)
	case past > 0:
		return fmt.Sprintf("this host opened %s from %s %s%s", finding.Counted(past, "connection", "connections"), from, j.watched(), strong)
	case !j.LeavesAllBySource(r, i) && j.Forgotten:
		return fmt.Sprintf("what this host opened from %s is not known completely%s", from, strong)
	}
	return ""
}

// needsForGateway says which setting of an interface needs a rule, "" for none: only tables that rules lead to tell of gateways.
// By next_hop: auto a reply goes to the MAC that its question came from where no gateway is known.
func (j *Judge) needsForGateway(r *snapshot.Rule, i *discover.Interface) string {
	setting := ""
	switch {
	case i.Settings.HostModel == config.HostModelStrong:
		setting = "host_model: strong"
	case i.Settings.NextHop == config.NextHopGateway:
		setting = "next_hop: gateway"
	}
	if setting == "" || !slices.Contains(ToldBy(j.Host, r.Family, r.Table), i.Name) {
		return ""
	}
	return fmt.Sprintf("%s sends to the gateway of %s, which table %s names: with gateways: in the configuration both could go",
		setting, i.Name, dump.TableName(r.Table))
}

// ToldBy names the interfaces whose gateway neither the main table nor the configuration names.
func ToldBy(h *snapshot.Host, family, table int) []string {
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
func (j *Judge) opensWithout(r *snapshot.Rule, i *discover.Interface) string {
	if j.LeavesAllBySource(r, i) {
		return "and by host_model: strong what this host opens"
	}
	isRelated := func(row snapshot.Row) bool { return row.Originated && r.Src.Contains(row.Self) && j.Relates(&row) }
	if j.OpenedRelated(r) || slices.ContainsFunc(j.Rows, isRelated) {
		return fmt.Sprintf("and what this host opened from %s %s is related to what its peers began", snapshot.OrAll(r.Src), j.watched())
	}
	return fmt.Sprintf("and this host opened nothing from %s %s", snapshot.OrAll(r.Src), j.watched())
}

// byMark judges a rule by the mark of connections. Where the firewall gives the mark only to what comes in by the
// interface that the rule leads to, and nothing is forwarded, only replies have it.
func (j *Judge) byMark(r *snapshot.Rule) Judgement {
	index := slices.IndexFunc(j.Interfaces, func(i discover.Interface) bool { return j.LeavesBy(r.Family, r.Table, i.Index) })
	if index < 0 {
		return Judgement{Verdict: Needed, Reason: fmt.Sprintf("table %s does not lead back by a managed interface", dump.TableName(r.Table))}
	}
	i := &j.Interfaces[index]
	judged := Judgement{For: i, IsOf: func(self netip.Addr) bool { return snapshot.FamilyOf(netip.PrefixFrom(self, 0)) == r.Family }}
	return judged.conclude(j, cmp.Or(j.needs(r, i, judged.IsOf), j.otherMarks(r, i)),
		fmt.Sprintf("only what arrives by %s gets the mark, and replypath sends the replies", i.Name))
}

// otherMarks says what else than replies of an interface may have the mark of a rule, "" for nothing.
func (j *Judge) otherMarks(r *snapshot.Rule, i *discover.Interface) string {
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
	case slices.ContainsFunc(j.SocketMarks, r.SelectsMark):
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
func (j *Judge) openedBefore(r *snapshot.Rule, i *discover.Interface) int {
	sum := 0
	for _, row := range j.Rows {
		if row.Originated && r.Src.Contains(row.Self) && !j.Relates(&row) && (j.HasSeveralGateways(i, r.Family) || !j.Leaves(i, &row)) {
			sum += int(row.Flows)
		}
	}
	return sum
}

// Leaves tells whether the strong host model sends what a row has.
func (j *Judge) Leaves(i *discover.Interface, r *snapshot.Row) bool {
	protocol, err := config.Protocol(r.Protocol)
	return err == nil && j.LeavesBySource(i, r.Self, protocol)
}

// Relates tells whether what a row has goes as answers to its peers go.
func (j *Judge) Relates(r *snapshot.Row) bool {
	protocol, err := config.Protocol(r.Protocol)
	return err == nil && j.GoesRelated(r.Related, protocol)
}

// watched says for how long it was looked.
func (j *Judge) watched() string {
	if text := Shortly(j.Watched); text != "" {
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

// NeedlessRules tells of each rule that sends answers back, by a source or by the mark of a connection, whether it is needed. What
// this host opened before now is not regarded: plan does.
func NeedlessRules(h *snapshot.Host) []finding.Finding {
	judge := Judge{Host: h}
	enforces := h.EnforcesAll() && len(h.MissingPrograms()) == 0
	return finding.Each(h.Rules, func(r *snapshot.Rule) finding.Finding {
		judged := judge.Rule(r)
		verdict, severity, reason := "is needed: ", finding.OK, judged.Reason
		switch {
		case judged.For == nil:
			return finding.None
		case judged.Verdict == NotNeeded && enforces:
			verdict, severity = "is not needed: ", finding.Note
		case judged.Verdict == NotNeeded:
			reason = "replypath does not enforce on all interfaces"
		}
		return seenRule(r, severity, judged.For.Name, r.String()+" "+verdict+reason)
	})
}
