// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"time"

	"replypath/loader/doctor"
	"replypath/loader/doctor/checks"
	"replypath/loader/history"
	"replypath/loader/plan"
	"replypath/loader/status"
	"replypath/test/fakehost"
)

// fakePlan is that of a replica with a rule; blocked where a gateway is silent, and of nothing on a lonely host.
func fakePlan(o plan.Options) (*plan.Plan, error) {
	if o.PinDir == fakehost.ForeignDir {
		return nil, fakehost.DirError(fakehost.ForeignDir)
	}
	made := time.Date(2026, time.November, 25, 12, 0, 0, 0, time.UTC)
	p := &plan.Plan{
		Verdict: plan.NothingToDo, Summary: "nothing to do here", MadeAt: made, WouldMove: []history.Row{}, Originated: []plan.Originated{},
		Rules: []plan.Rule{}, HostChanges: []status.WouldChange{}, Blockers: []doctor.Finding{},
	}
	if o.PinDir == fakehost.LonelyDir {
		return p, nil
	}
	p.Verdict, p.Summary, p.WatchedSince, p.Watched = plan.Ready, "ready: replypath mode enforce", new(made.Add(-72*time.Hour)), (50 * time.Hour).Seconds()
	p.WouldMove = []history.Row{
		fakeRow("10.4.0.100", 5432, "10.9.0.0/24", 12, 90*time.Second), fakeRow("2001:db8:4::100", 5432, "2001:db8:9::/64", 1, 30*time.Hour),
	}
	opened := fakeRow("10.4.0.100", 0, "10.9.0.0/24", 3, time.Second)
	opened.Originated, opened.PeerPort = true, 22
	p.Originated = []plan.Originated{{Row: opened, Remedy: "host_model: strong of eth1; or a route to 10.9.0.0/24 via 10.4.0.1 dev eth1"}}
	p.Rules = []plan.Rule{
		{Rule: "rule 100: from 10.4.0.100 lookup 101", Kind: plan.KindRule, Verdict: checks.Needed, Connections: 12, Peers: []string{"10.9.0.0/24"},
			Reason: "this host opened 3 connections from 10.4.0.100 in the 2 d watched; host_model: strong would send listed protocols by eth1"},
		{Rule: "rule 1000: from all", Kind: plan.KindRule, Verdict: checks.Foreign, Reason: "it gives each VRF its table", Owner: new("the kernel's VRFs")},
		{Rule: "rule 200: from 2001:db8:4::100 lookup 101", Kind: plan.KindRule, Verdict: checks.NotNeeded,
			Reason: "once replypath enforces on all interfaces: replypath sends the replies, and this host opened nothing from 2001:db8:4::100 in the 2 d watched"},
	}
	p.HostChanges = []status.WouldChange{{Object: "sysctl net.ipv4.conf.eth1.rp_filter", Before: "1", After: "2"}}
	if o.Since > 0 {
		p.WouldMove = p.WouldMove[:1]
	}
	if o.PinDir == fakehost.WatchedDir {
		p.Verdict, p.Summary = plan.Blocked, "blocked: gateway: gateway 10.4.0.1 is failed"
		p.Blockers = []doctor.Finding{{Check: "gateway", Severity: doctor.Error, Interface: new("eth1"), Found: "gateway 10.4.0.1 is failed", Inspect: new("ip neigh show 10.4.0.1 dev eth1")}}
	}
	return p, nil
}

func fakeRow(self string, port uint16, peer string, flows uint64, ago time.Duration) history.Row {
	made := time.Date(2026, time.November, 25, 12, 0, 0, 0, time.UTC)
	return history.Row{
		Key: history.Key{
			Self: netip.MustParseAddr(self), SelfPort: port, Protocol: "tcp", Peer: netip.MustParsePrefix(peer), FromInterface: "eth0", ToInterface: "eth1",
		},
		Flows: flows, Packets: history.Count(1000 * flows), FirstSeen: made.Add(-49 * time.Hour), LastSeen: made.Add(-ago),
	}
}
