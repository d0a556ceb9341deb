// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"testing"
	"time"

	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/test/testhost"
)

func TestUnnamedTunnels(t *testing.T) {
	asked := snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonTunnel, Packets: 12}
	ofNone := asked
	ofNone.From = ""
	const rest = ", 12 were counted: their replies leave as routed. If these belong there, " +
		"set interfaces: [{name: eth0}, {name: eth1}] in /etc/replypath/replypath.yaml, then systemctl reload replypath" +
		" ?? replypath trace --count 10  # the requests, and their way"
	testhost.Check(t, UnnamedTunnels, []testhost.Wants{
		{"none", nil, nil},
		{"of eth0", testhost.Wrong(asked), []string{"note eth1: a tunnel that brought requests for addresses of eth0" + rest}},
		{"of eth0, until a route led out", testhost.And(testhost.Wrong(asked), func(h *snapshot.Host) {
			h.Status = &status.Status{Interfaces: []status.Interface{{Name: "eth1"}}}
		}), nil},
		{"of no interface", testhost.Wrong(ofNone), []string{"note eth1: a tunnel that brought requests for addresses that no interface has alone" + rest}},
		{"named meanwhile", func(h *snapshot.Host) {
			testhost.Wrong(asked)(h)
			h.Config.Interfaces = []config.Interface{{Name: "eth1"}}
		}, nil},
		{"without a global address", func(h *snapshot.Host) {
			h.Nameless = []discover.Unmanaged{{Name: "tun1", Reason: "a tunnel without a global address"}}
		}, []string{
			"ok tun1: a tunnel without a global address: replies to what it brings leave as routed. If these belong there, " +
				"set interfaces: [{name: eth0}, {name: eth1}, {name: tun1}] in /etc/replypath/replypath.yaml, then systemctl reload replypath" +
				" ?? ip -details -statistics link show dev tun1"}},
		{"that interfaces leaves out", func(h *snapshot.Host) {
			h.Nameless, h.Config.Interfaces = []discover.Unmanaged{{Name: "tun1"}}, []config.Interface{{Name: "eth0"}}
		}, nil},
		{"gone", testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "gre1", Reason: snapshot.ReasonTunnel, Packets: 12}), nil},
	})
	testhost.Check(t, WrongWays, []testhost.Wants{{"no wrong way", testhost.Wrong(asked), nil}})
}

// TestUnrecordedProtocols: each is told once, of interfaces by which what is not recorded does not leave anyway.
func TestUnrecordedProtocols(t *testing.T) {
	came := func(list ...counters.Unrecorded) func(*snapshot.Host) {
		return func(h *snapshot.Host) { h.Status = &status.Status{Counted: status.Counted{Unrecorded: list}} }
	}
	gre := counters.Unrecorded{Interface: "eth1", Family: 4, Protocol: 47, Packets: 12, Last: time.Now()}
	gre6, byDefault, gone, past := gre, gre, gre, gre
	gre6.Family, byDefault.Interface, gone.Interface, past.Last = 6, "eth0", "eth9", time.Now().Add(-2*time.Hour)
	testhost.Check(t, UnrecordedProtocols, []testhost.Wants{
		{"none", nil, nil},
		{"gre and esp", came(gre, gre6, byDefault, gone, counters.Unrecorded{Interface: "eth1", Family: 6, Protocol: 50, Packets: 1, Last: time.Now()}), []string{
			"note eth1: eth1 brings protocol 47 (gre), which is not recorded: its replies leave as routed" +
				" => add gre to protocols: [tcp, udp, icmp, icmpv6, sctp] in /etc/replypath/replypath.yaml, then systemctl reload replypath",
			"note eth1: eth1 brings protocol 50 (esp), which is not recorded: its replies leave as routed" +
				" => add esp to protocols: [tcp, udp, icmp, icmpv6, sctp] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"of long ago", came(past), nil},
		{"listed by now", func(h *snapshot.Host) { came(gre)(h); h.Config.Protocols = append(h.Config.Protocols, 47) }, nil},
	})
}

// noon is when something was seen.
var noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.Local)

func TestWrongWays(t *testing.T) {
	observed := snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonObserve, Packets: 12, Last: noon, Flows: 2}
	const found = "warning eth1: replies of eth1 leave by eth0: 2 live flows, 12 packets in all, the last at 2026-03-01, reason observe: replypath only observes there => "
	const enforce = "replypath mode enforce"
	testhost.Check(t, WrongWays, []testhost.Wants{
		{"none", nil, nil},
		{"observed", func(h *snapshot.Host) { testhost.Wrong(observed)(h); h.Config.Mode = config.ModeObserve },
			[]string{found + enforce + "  # until the next start; for good: mode: enforce in /etc/replypath/replypath.yaml"}},
		{"observed by hand", testhost.Wrong(observed), []string{found + enforce}},
		{"observed, and they arrive", testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonObserve, Flows: 2, Arrived: 1}), []string{
			"note eth1: replies of eth1 leave by eth0: 2 live flows, reason observe: replypath only observes there; 1 handshake was completed so: " +
				"enforcing learns from handshakes by which way replies arrive => " + enforce}},
		{"observed by its own mode", func(h *snapshot.Host) {
			testhost.Wrong(observed)(h)
			h.Config.Interfaces = []config.Interface{{Name: "eth1", Mode: config.ModeObserve}}
		}, []string{found + enforce + "  # until the next start; for good: mode: enforce for name: eth1 in /etc/replypath/replypath.yaml"}},
		{"observed by a flag", func(h *snapshot.Host) {
			testhost.Wrong(observed)(h)
			h.PinDir = "/sys/fs/bpf/x"
			testhost.InForce(testhost.Flags)(h)
		}, []string{found + enforce + " --pin-dir /sys/fs/bpf/x  # until the next start: leave --observe out then"}},
		{"down", testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonLinkDown, Packets: 5, Last: noon}), []string{
			"error eth1: replies of eth1 leave by eth0: 5 packets in all, the last at 2026-03-01, reason link_down: eth1 is down or gone" +
				" ?? ip -details link show dev eth1  # bring it up, or its cable"}},
		{"by no interface, without a next hop", testhost.Wrong(snapshot.WrongWay{To: "eth1", Reason: "no_next_hop", Packets: 5, Last: noon, Flows: 1}), []string{
			"error eth1: replies of eth1 leave by replypath0: 1 live flow, 5 packets in all, the last at 2026-03-01, reason no_next_hop: no mac of a next hop is known there" +
				" ?? ip neigh show dev eth1  # name the one that has to get the replies under gateways"}},
		{"to another next hop", testhost.Wrong(snapshot.WrongWay{From: "eth1", To: "eth1", Reason: "rewrite_failed", Packets: 5, Last: noon}), []string{
			"error eth1: replies of eth1 leave there to another next hop: 5 packets in all, the last at 2026-03-01, reason rewrite_failed" +
				" ?? replypath trace --count 10  # what becomes of each"}},
		{"too large", testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: "mtu", Flows: 1}), []string{
			"warning eth1: replies of eth1 leave by eth0: 1 live flow, reason mtu: they are larger than its mtu ?? ip -details link show dev eth1  # its mtu and that of eth0"}},
		{"of bound sockets", testhost.Wrong(snapshot.WrongWay{To: "eth1", Reason: "bound_device", Flows: 1}), []string{
			"note eth1: replies of eth1 leave by replypath0: 1 live flow, reason bound_device: their sockets are bound to replypath0" +
				" ?? ss -tuapn  # who is bound to a device has its name behind the address, as in 0.0.0.0%eth0"}},
		{"refused to some peers", testhost.Wrong(snapshot.WrongWay{From: "refused", To: "eth1", Reason: snapshot.ReasonNoRoute, Flows: 2}), []string{
			"warning eth1: replies of eth1 are refused: 2 live flows, reason no_route: a route or a rule does, to their peers" +
				" ?? ip route show table all; ip -6 route show table all; ip rule show; ip -6 rule show"}},
		{"refused to who was answered", testhost.Wrong(snapshot.WrongWay{From: "refused", To: "eth1", Reason: snapshot.ReasonNoRoute, Flows: 1, Answered: true}), []string{
			"error eth1: replies of eth1 are refused: 1 live flow, reason no_route: a route or a rule does, to their peers" +
				" ?? ip route show table all; ip -6 route show table all; ip rule show; ip -6 rule show"}},
		{"by an interface without programs", testhost.Wrong(snapshot.WrongWay{From: "tun9", To: "eth1", Reason: snapshot.ReasonNotManaged, Flows: 2}), []string{
			"error eth1: replies of eth1 leave by tun9: 2 live flows, reason not_managed: replypath is not attached there" +
				" => set interfaces: [{name: eth0}, {name: eth1}, {name: tun9}] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"lost", testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: snapshot.ReasonLost, Packets: 9, Last: noon}), []string{
			"error eth1: replies of eth1 that the kernel would send by eth0 are handed to eth1 and not seen leaving there: 9 packets in all, the last at 2026-03-01" +
				" ?? tc -s qdisc show dev eth1  # what is dropped there"}},
	})

	for _, test := range []struct {
		way  snapshot.WrongWay
		want uint64
	}{{observed, 12}, {snapshot.WrongWay{From: "tun9", To: "eth1", Reason: snapshot.ReasonNotManaged, Flows: 2}, 2}} {
		h := testhost.New()
		testhost.Wrong(test.way)(h)
		testhost.Does(func(s *status.Status) { s.Counted.Since = new(time.Now()) })(h)
		f := WrongWays(h)[0]
		if e := f.Evidence; e == nil || e.Count != test.want || (e.Since != nil) != (test.way.Packets > 0) {
			t.Errorf("%s: evidence %+v", f.Found, e)
		}
	}
}

func TestDownInterfaces(t *testing.T) {
	const look = " ?? ip -details link show dev eth1  # bring it up, or its cable"
	down := func(h *snapshot.Host) { h.Interfaces[1].Up = false }
	testhost.Check(t, DownInterfaces, []testhost.Wants{
		{"up", nil, nil},
		{"without an address and a gateway", func(h *snapshot.Host) { down(h); h.Interfaces[1].Addresses, h.Gateways = nil, nil }, nil},
		{"down", down, []string{"warning eth1: eth1 is down: replies to what arrives there cannot leave by it" + look}},
		{"in use", func(h *snapshot.Host) {
			down(h)
			h.Flows = []flows.Flow{{Interface: new("eth1")}, {Interface: new("eth0")}, {}, {Interface: new("eth1"), Closing: true}}
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
			s.Flows.Tables = []flows.TableUsage{{Name: "half_open", Flows: 89, Lasting: 89, Capacity: 100},
				{Name: "established", Flows: 120, Lasting: 90, Capacity: 100}, {Name: "connectionless", Flows: 120, Capacity: 100}, {Name: "none"}}
		}), []string{"warning: flow table established is nearly full: 90 of 100 flows" + larger}},
		{"no place", testhost.Does(func(s *status.Status) {
			s.Counted.NotEntered, s.Flows.Tables = 3, []flows.TableUsage{{Name: "established", Flows: 90, Lasting: 90, Capacity: 100}}
		}), []string{"warning: flow table established is nearly full: 90 of 100 flows" + larger, "warning: flows were not recorded: 3 found no place in a table" + larger}},
		{"no place, once", testhost.Does(func(s *status.Status) { s.Counted.NotEntered = 3 }), nil},
	})
}

// TestOver: what was wrong and is no more is worth knowing; what other checks tell is not told twice.
func TestOver(t *testing.T) {
	const look = " ?? replypath trace --count 10  # what becomes of each"
	gone := snapshot.WrongWay{From: "eth0", To: "eth1", Reason: "no_next_hop", Packets: 28, Last: noon, Over: true}
	lost, down, missing := gone, gone, gone
	lost.Reason = snapshot.ReasonLost
	down.Reason, down.Over = snapshot.ReasonLinkDown, false
	missing.To, missing.Reason, missing.Over = "eth9", snapshot.ReasonLinkDown, false
	testhost.Check(t, WrongWays, []testhost.Wants{
		{"as routed", testhost.Wrong(gone), []string{"note eth1: 28 replies of eth1 went by eth0, last at 2026-03-01, no_next_hop; none since" + look}},
		{"lost", testhost.Wrong(lost), []string{"note eth1: 28 replies moved to eth1 never left there, last at 2026-03-01, lost; none since" + look}},
		{"what the host opens", testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: "no_next_hop", Packets: 28, Last: noon, Opened: true}), []string{
			"warning eth1: what this host opens from addresses of eth1 went by eth0: 28 packets in all, the last at 2026-03-01, reason no_next_hop ?? replypath flows --originated"}},
		{"what the host opened", testhost.Wrong(snapshot.WrongWay{From: "eth0", To: "eth1", Reason: "no_next_hop", Packets: 28, Last: noon, Opened: true, Over: true}), []string{
			"note eth1: what this host opens from addresses of eth1 went by eth0: 28 packets in all, the last at 2026-03-01, reason no_next_hop ?? replypath flows --originated"}},
		{"link says so", func(h *snapshot.Host) { testhost.Wrong(down)(h); h.Interfaces[1].Up = false }, nil},
		{"missing-interface says so", func(h *snapshot.Host) { testhost.Wrong(missing)(h); testhost.Naming("eth9")(h) }, nil},
		{"addresses says so", func(h *snapshot.Host) {
			h.OwnWays = []snapshot.OwnWay{{On: "eth1", Refused: true}}
			h.WrongWays = []snapshot.WrongWay{{From: "refused", To: "eth1", Reason: snapshot.ReasonNoRoute, Flows: 4}}
		}, nil},
	})
	h := testhost.New()
	testhost.Wrong(gone)(h)
	testhost.Does(func(s *status.Status) { s.Counted.Since = new(noon.Add(-time.Hour)) })(h)
	if e := WrongWays(h)[0].Evidence; e == nil || e.Count != 28 || !e.Until.Equal(noon) || !e.Since.Equal(noon.Add(-time.Hour)) {
		t.Errorf("evidence %+v", e)
	}
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
			"warning: the firewall could not be read: chain t: gone ?? replypath doctor  # once more"}},
	})
}

// TestOwnAddresses: before the first start each own address is told with the way of its replies; later what the kernel refuses.
func TestOwnAddresses(t *testing.T) {
	by := func(way snapshot.OwnWay) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			way.Address, way.On = testhost.Prefix("10.4.0.100/24"), "eth1"
			h.OwnWays = []snapshot.OwnWay{way}
		}
	}
	attached := func(h *snapshot.Host) { h.Attached = true }
	refused := []string{"warning eth1: 10.4.0.100 on eth1: the kernel refuses replies, to peers beyond 10.4.0.0/24: a rule or a route does ?? " + listRouting}
	testhost.Check(t, OwnAddresses, []testhost.Wants{
		{"by another interface", by(snapshot.OwnWay{By: "eth0"}), []string{"warning eth1: 10.4.0.100 on eth1: replies leave by eth0, to peers beyond 10.4.0.0/24: " +
			"a stateful firewall, strict urpf or a source check on that way would drop them. replypath sends them by eth1, unless handshakes show that they arrive as routed only => replypath try"}},
		{"by their own", by(snapshot.OwnWay{By: "eth1"}), []string{"ok eth1: 10.4.0.100 on eth1: replies leave by eth1"}},
		{"attached", testhost.And(by(snapshot.OwnWay{By: "eth0"}), attached), nil},
		{"refused", by(snapshot.OwnWay{Refused: true}), refused},
		{"refused, attached", testhost.And(by(snapshot.OwnWay{Refused: true}), attached), refused},
	})
}
