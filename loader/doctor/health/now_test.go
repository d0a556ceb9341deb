// SPDX-License-Identifier: Apache-2.0

package health

import (
	"testing"
	"time"

	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/test/testhost"
)

func TestDownInterfaces(t *testing.T) {
	const look = " ?? ip -details link show dev eth1  # bring it up, or its cable"
	down := func(h *snapshot.Host) { h.Interfaces[1].Up = false }
	testhost.Check(t, DownInterfaces, []testhost.Wants{
		{"up", nil, nil},
		{"without an address and a gateway", func(h *snapshot.Host) { down(h); h.Interfaces[1].Addresses, h.Gateways = nil, nil }, nil},
		{"down", down, []string{"warning eth1: eth1 is down: replies to what arrives there cannot leave by it" + look}},
		{"in use", func(h *snapshot.Host) {
			down(h)
			h.Flows = []flows.Flow{{Interface: new("eth1")}, {Interface: new("eth0")}, {}}
		},
			[]string{"error eth1: eth1 is down: replies of its recorded flows go as routed, or nowhere" + look}},
	})
}

func TestEndedTrial(t *testing.T) {
	until := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	testhost.Check(t, EndedTrial, []testhost.Wants{
		{"nothing is pinned", nil, nil},
		{"none", testhost.Does(func(*status.Status) {}), nil},
		{"over", testhost.Does(func(s *status.Status) { s.TrialEnded = &until }), []string{"error: the trial is over: not confirmed by " +
			until.Local().Format(time.RFC3339) + ", so replies leave as routed, and the next start takes back the rest => systemctl start replypath"}},
	})
}

func TestDaemonTroubles(t *testing.T) {
	const look = " ?? replypath status --verbose  # what it does without"
	has := func(running bool, errors ...string) func(*snapshot.Host) {
		return testhost.Does(func(s *status.Status) {
			s.Errors, s.Daemon = errors, status.Daemon{Running: running, Passed: time.Now()}
		})
	}
	testhost.Check(t, DaemonTroubles, []testhost.Wants{
		{"nothing is pinned", nil, nil},
		{"nothing left to do", has(true), nil},
		{"hangs", testhost.Does(func(s *status.Status) {
			s.Daemon = status.Daemon{Running: true, Passed: time.Now().Add(-95 * time.Second)}
		}), []string{"error: the daemon hangs: its last pass was 1m35s ago; what changes on the host is not followed" +
			" ?? ps -C replypath -o pid,stat,wchan,args  # what it waits for; restart it"}},
		{"of a version that does not say when it passed", testhost.Does(func(s *status.Status) {
			s.Daemon = status.Daemon{Running: true}
		}), nil},
		{"running", has(true, "the metrics cannot be served"), []string{"warning: the metrics cannot be served" + look}},
		{"of what missing-interface and rp-filter say", func(h *snapshot.Host) {
			testhost.Naming("eth9")(h)
			has(true, "interface eth9 is not there yet: it is managed once it appears",
				"interface eth1 only observes, and its rp_filter is strict: the kernel drops")(h)
		}, nil},
		{"ended", has(false, "no route", "metrics: address already in use"), []string{
			"warning: no route, when the daemon ended" + look, "warning: metrics, when the daemon ended: address already in use" + look}},
	})
}

func TestFullTables(t *testing.T) {
	const larger = " => raise flow_table.max_entries in /etc/replypath/replypath.yaml, then systemctl reload replypath"
	testhost.Check(t, FullTables, []testhost.Wants{
		{"nothing is pinned", nil, nil},
		{"full", testhost.Does(func(s *status.Status) {
			s.Flows.Tables = []flows.TableUsage{{Name: "half_open", Flows: 94, Capacity: 100}, {Name: "established", Flows: 95, Capacity: 100}, {Name: "none"}}
		}), []string{"warning: flow table established is full: 95 of 100 flows" + larger}},
		{"no place", testhost.Does(func(s *status.Status) { s.Counted.NotEntered = 3 }),
			[]string{"error: flows were not recorded: 3 found no place in a table" + larger}},
	})
}

func TestFailing(t *testing.T) {
	const look = " ?? replypath trace --count 10  # what becomes of each"
	counted := func(c status.Counted) func(*snapshot.Host) {
		return testhost.Does(func(s *status.Status) { s.Counted = c })
	}
	testhost.Check(t, WrongWays, []testhost.Wants{
		{"nothing is pinned", nil, nil},
		{"lost", counted(status.Counted{Totals: counters.Totals{Failing: counters.Failing{Lost: 9}}}),
			[]string{"warning: replies were lost: 9 packets moved and never seen leaving" + look}},
		{"as routed", counted(status.Counted{Totals: counters.Totals{Failing: counters.Failing{Uncorrected: 40}}}),
			[]string{"warning: replies not corrected: 40 packets left as routed" + look}},
		{"seen now as well", func(h *snapshot.Host) {
			counted(status.Counted{Totals: counters.Totals{Failing: counters.Failing{Lost: 9}}})(h)
			h.WrongWays = []snapshot.WrongWay{{From: "eth0", To: "eth1", Reason: snapshot.ReasonLinkDown, Grown: 4}}
		}, []string{"error eth1: replies of eth1 leave by eth0: 4 packets within 0.0 s, reason link_down: eth1 is down or gone" +
			" ?? ip -details link show dev eth1  # bring it up, or its cable"}},
		{"link says so", func(h *snapshot.Host) {
			counted(status.Counted{Totals: counters.Totals{Failing: counters.Failing{Uncorrected: 40}}})(h)
			h.Interfaces[1].Up = false
			h.WrongWays = []snapshot.WrongWay{{From: "eth0", To: "eth1", Reason: snapshot.ReasonLinkDown, Grown: 4}}
		}, nil},
		{"missing-interface says so", func(h *snapshot.Host) {
			testhost.Naming("eth9")(h)
			h.WrongWays = []snapshot.WrongWay{{From: "eth0", To: "eth9", Reason: snapshot.ReasonLinkDown, Grown: 4}}
		}, nil},
		{"addresses says so", func(h *snapshot.Host) {
			h.OwnWays = []snapshot.OwnWay{{On: "eth1", Refused: true}}
			h.WrongWays = []snapshot.WrongWay{{From: "refused", To: "eth1", Reason: snapshot.ReasonNoRoute, Flows: 4}}
		}, nil},
	})
}

func TestWithoutGateway(t *testing.T) {
	needs := func(h *snapshot.Host) { h.Gateways, h.Interfaces[1].Settings.NextHop = nil, config.NextHopGateway }
	testhost.Check(t, WithoutGateway, []testhost.Wants{
		{"by whoever sent", func(h *snapshot.Host) { h.Gateways = nil }, nil},
		{"a tunnel", func(h *snapshot.Host) { needs(h); h.Interfaces[1].MAC = nil }, nil},
		{"none", needs, []string{"error eth1: eth1 has no gateway: next_hop is gateway, and no route names one" +
			" => set interfaces: [{name: eth0}, {name: eth1, gateways: [its address]}] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
	})
}

func TestUnreadFacts(t *testing.T) {
	testhost.Check(t, UnreadFacts, []testhost.Wants{
		{"all read", nil, nil},
		{"two", func(h *snapshot.Host) {
			h.Failed = map[string]string{snapshot.PartTracked: "no such file", snapshot.PartFirewall: "chain t: gone"}
		}, []string{
			"warning: connection tracking could not be read: no such file ?? replypath doctor  # once more",
			"warning: the firewall could not be read: chain t: gone ?? replypath doctor  # once more",
		}},
	})
}
