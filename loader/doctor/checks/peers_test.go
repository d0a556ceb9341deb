// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/nexthop"
	"replypath/loader/status"
	"replypath/test/testhost"
)

func TestSilentGateways(t *testing.T) {
	state := func(state string) func(*snapshot.Host) { return func(h *snapshot.Host) { h.Gateways[1].State = state } }
	asked := func(h *snapshot.Host) { h.Asked = true }
	answers := func(h *snapshot.Host) {
		h.Status = &status.Status{Interfaces: []status.Interface{{Name: "eth1", Recent: flows.Recent{Right: 5}}}}
	}
	const (
		eth0 = "ok eth0: gateway 10.3.0.1 is reachable"
		look = " ?? ip neigh show 10.4.0.1 dev eth1"
	)
	testhost.Check(t, SilentGateways, []testhost.Wants{
		{"all answer", nil, []string{eth0, "ok eth1: gateway 10.4.0.1 is reachable"}},
		{"failed", state(nexthop.StateFailed), []string{eth0, "error eth1: gateway 10.4.0.1 does not answer arp: it is failed" + look}},
		{"failed, of a route", func(h *snapshot.Host) {
			h.Gateways[0].State = nexthop.StateFailed
			h.Routes[0].Protocol = unix.RTPROT_DHCP
		}, []string{
			"error eth0: gateway 10.3.0.1 does not answer arp: it is failed ?? ip neigh show 10.3.0.1 dev eth0 @ a DHCP client",
			"ok eth1: gateway 10.4.0.1 is reachable"}},
		{"failed, of the configuration", func(h *snapshot.Host) {
			state(nexthop.StateFailed)(h)
			h.Interfaces[1].Settings.Gateways = []netip.Addr{testhost.Address("10.4.0.1")}
		}, []string{eth0, "error eth1: gateway 10.4.0.1 does not answer arp: it is failed, and the configuration names it" + look}},
		{"configured, and replies go another way", func(h *snapshot.Host) {
			state(nexthop.StateFailed)(h)
			h.Interfaces[1].Settings.Gateways = []netip.Addr{testhost.Address("10.4.0.1")}
			answers(h)
		}, []string{eth0, "warning eth1: gateway 10.4.0.1 does not answer arp: it is failed, and the configuration names it; 5 replies went another way and left rightly" + look}},
		{"configured, and replies go by it", func(h *snapshot.Host) {
			state(nexthop.StateFailed)(h)
			h.Interfaces[1].Settings.Gateways = []netip.Addr{testhost.Address("10.4.0.1")}
			answers(h)
			h.Flows = []flows.Flow{{Interface: new("eth1"), Gateway: new("10.4.0.1")}}
		}, []string{eth0, "error eth1: gateway 10.4.0.1 does not answer arp: it is failed, and the configuration names it" + look}},
		{"failed, of a few networks", func(h *snapshot.Host) {
			state(nexthop.StateFailed)(h)
			h.Gateways[1].Reach4.Networks = testhost.Prefixes("10.50.0.0/16")
		}, []string{eth0, "warning eth1: gateway 10.4.0.1 does not answer arp: it is failed, and leads to 10.50.0.0/16 only" + look}},
		{"never answered", state(nexthop.StateIncomplete), []string{eth0, "error eth1: gateway 10.4.0.1 does not answer arp: it is incomplete" + look}},
		{"ipv6", func(h *snapshot.Host) {
			h.Gateways = []nexthop.Gateway{{Interface: 3, Address: testhost.Address("2001:db8:4::1"), State: nexthop.StateFailed, IPv6: true}}
		}, []string{"error eth1: gateway 2001:db8:4::1 does not answer neighbour discovery: it is failed ?? ip neigh show 2001:db8:4::1 dev eth1"}},
		{"just used", state(nexthop.StateDelay), []string{eth0, "ok eth1: gateway 10.4.0.1 is delay"}},
		{"not asked yet", state(nexthop.StateNone), []string{eth0, "note eth1: gateway 10.4.0.1 has not answered yet: nobody has sent to it since its interface came up" + look}},
		{"asked, without an entry", testhost.And(state(nexthop.StateNone), asked), []string{
			eth0, "warning eth1: gateway 10.4.0.1 has not answered yet: nobody has sent to it since its interface came up" + look,
		}},
		{"still asked", testhost.And(state(nexthop.StateProbe), asked), []string{eth0, "warning eth1: gateway 10.4.0.1 is probe: it has not answered for some seconds" + look}},
		{"permanent", state(nexthop.StatePermanent), []string{eth0, "ok eth1: gateway 10.4.0.1 is permanent"}},
		{"down, which link says", func(h *snapshot.Host) { h.Interfaces[1].Up = false }, []string{eth0}},
	})
}

func TestLastHop(t *testing.T) {
	want := []string{
		"warning eth1: peers of this network arrive from another station's mac: 10.4.0.55 from 02:00:00:00:07:01 (10.4.0.1): next_hop last-hop answers them through it" +
			" => set interfaces: [{name: eth0}, {name: eth1, next_hop: last-hop}] in /etc/replypath/replypath.yaml, then systemctl reload replypath",
	}
	and := func(change func(*snapshot.Host)) func(*snapshot.Host) {
		return func(h *snapshot.Host) { testhost.ThroughBalancer(h); change(h) }
	}
	testhost.Check(t, LastHop, []testhost.Wants{
		{"no flows", nil, nil},
		{"through a balancer", testhost.ThroughBalancer, want},
		{"as handshakes taught", and(func(h *snapshot.Host) {
			h.Flows[0].Verdict, h.Flows[1].Verdict = new(flows.WayLastHop), new(flows.WayLastHop)
		}), []string{strings.Replace(want[0], "warning", "note", 1)}},
		{"completed directly", and(func(h *snapshot.Host) { h.Flows[0].State = flows.StateEstablished }), nil},
		{"beside direct return", and(func(h *snapshot.Host) { h.Flows[1].Verdict = new(flows.WayDirectReturn) }), nil},
		{"through a balancer that is the gateway, the client is not known", and(func(h *snapshot.Host) { h.Neighbours = h.Neighbours[:1] }), want},
		{"another address of a neighbour", and(func(h *snapshot.Host) {
			h.Neighbours = []snapshot.Neighbour{{Interface: testhost.Eth1, Address: testhost.Address("10.4.0.56"), MAC: testhost.MAC(testhost.BalancerMAC)}}
		}), nil},
		{"directly", and(func(h *snapshot.Host) {
			h.Flows[0].NextHopMAC, h.Flows[1].NextHopMAC = new(testhost.ClientMAC), new(testhost.ClientMAC)
		}), nil},
		{"proxy arp", and(func(h *snapshot.Host) { h.Neighbours[1].MAC = testhost.MAC(testhost.BalancerMAC) }), nil},
		{"not on-link", and(func(h *snapshot.Host) { h.Flows[0].Peer, h.Flows[1].Peer = "192.0.2.1", "192.0.2.1" }), nil},
		{"by its gateway", and(func(h *snapshot.Host) { h.Flows[0].Gateway, h.Flows[1].Gateway = new("10.4.0.1"), new("10.4.0.1") }), nil},
		{"the gateway itself", and(func(h *snapshot.Host) { h.Flows[0].Peer, h.Flows[1].Peer = "10.4.0.1", "10.4.0.1" }), nil},
		{"configured", and(func(h *snapshot.Host) { h.Interfaces[1].Settings.NextHop = config.NextHopLastHop }), nil},
		{"no table", func(h *snapshot.Host) { h.FlowError = "made by another version" }, []string{"warning: not looked at: made by another version => systemctl start replypath"}},
	})
}

// TestUnknownGateways: eth1 has no gateway of IPv4; its questions come from a MAC.
func TestUnknownGateways(t *testing.T) {
	const stranger = "02:00:00:00:07:09"
	through := func(state string) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Gateways = h.Gateways[:1]
			for _, peer := range []string{"10.60.0.1", "10.60.0.2", "10.4.0.55"} {
				h.Flows = append(h.Flows, flows.Flow{Peer: peer, Interface: new("eth1"), AgeSeconds: 1, State: state,
					Sender: bpf.DatapathSender{Mac: [6]uint8(testhost.MAC(stranger))}})
			}
		}
	}
	and := func(change func(*snapshot.Host)) func(*snapshot.Host) {
		return func(h *snapshot.Host) { through(flows.StateHalfOpen)(h); change(h) }
	}
	neighbour := func(address, mac string, isRouter bool) func(*snapshot.Host) {
		return and(func(h *snapshot.Host) {
			h.Neighbours = []snapshot.Neighbour{{Interface: testhost.Eth1, Address: testhost.Address(address), MAC: testhost.MAC(mac), Router: isRouter}}
		})
	}
	want := func(gateway string) []string {
		return []string{"warning eth1: 2 handshakes came from mac 02:00:00:00:07:09, which no neighbour has, and none was completed: " +
			"the router may take replies by another mac only (HSRP, VRRP) => set interfaces: [{name: eth0}, {name: eth1, gateways: [" +
			gateway + "]}] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}
	}
	testhost.Check(t, UnknownGateways, []testhost.Wants{
		{"known gateways", nil, nil},
		{"a stranger", through(flows.StateHalfOpen), want("ADDRESS")},
		{"datagrams of a stranger, which may be answered", through(flows.StateConnectionless), nil},
		{"a scan", and(func(h *snapshot.Host) {
			for n := range h.Flows {
				h.Flows[n].IdleSeconds = 1
			}
		}), nil},
		{"a stranger that takes replies", through(flows.StateEstablished), nil},
		{"a stranger of whom handshakes taught", and(func(h *snapshot.Host) {
			h.Status = &status.Status{Senders: []flows.Sender{{Interface: "eth1", MAC: new(stranger)}}}
		}), nil},
		{"a neighbour", neighbour("10.4.0.9", stranger, false), nil},
		{"beside a virtual router", neighbour("10.4.0.1", "00:00:0c:07:ac:01", false), want("10.4.0.1")},
		{"beside a router", neighbour("10.4.0.1", "02:00:00:00:07:01", true), want("10.4.0.1")},
		{"beside another host", neighbour("10.4.0.1", "02:00:00:00:07:01", false), want("ADDRESS")},
		{"last hop", and(func(h *snapshot.Host) { h.Interfaces[1].Settings.NextHop = config.NextHopLastHop }), nil},
	})
}

func TestSenders(t *testing.T) {
	key := bpf.DatapathSender{Mac: [6]uint8(testhost.MAC(testhost.BalancerMAC)), Interface: 2}
	learnt := func(ways ...string) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Status = new(status.Status)
			for _, way := range ways {
				h.Status.Senders = append(h.Status.Senders, flows.Sender{
					Interface: "eth1", MAC: new(testhost.BalancerMAC), Self: "10.4.0.100", Way: way, LearntAt: time.Now(), Key: key,
				})
			}
		}
	}
	asked := func(state string, unanswered bool, seconds float64) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Flows = append(h.Flows, flows.Flow{
				Family: "ipv4", Self: "10.4.0.100", Interface: new("eth1"), State: state, Unanswered: unanswered, Retried: true, AgeSeconds: seconds, Sender: key,
			})
		}
	}
	tried, early := asked(flows.StateHalfOpen, true, 6), asked(flows.StateHalfOpen, true, 2)
	withoutGateway := func(h *snapshot.Host) { h.Gateways = h.Gateways[:1] }
	observed := func(h *snapshot.Host) {
		h.Enforcing, h.Config.Mode = map[int]bool{testhost.Eth1: false}, config.ModeObserve
	}
	asRouted := func(h *snapshot.Host) { tried(h); h.Flows[0].Retried = false }
	director := func(h *snapshot.Host) {
		h.Neighbours = []snapshot.Neighbour{{Interface: testhost.Eth1, Address: testhost.Address("10.4.0.9"), MAC: testhost.MAC(testhost.BalancerMAC)}}
	}
	now := time.Now().Format("15:04")
	note := func(how, tried string) []string {
		return []string{"note eth1: replies of 10.4.0.100 through 02:00:00:00:07:01 go " + how + ", as " + tried + " none was completed, learnt at " + now +
			" ?? replypath status --verbose"}
	}
	const vain = "warning eth1: no handshake with 10.4.0.100 through 02:00:00:00:07:01 was completed: "
	const trace = " ?? replypath trace --self 10.4.0.100  # by which ways they are answered"
	testhost.Check(t, Senders, []testhost.Wants{
		{"nothing", nil, nil},
		{"the rule's way", learnt(flows.WayRule), nil},
		{"back", learnt(flows.WayLastHop), note("back to it", "directly")},
		{"as routed", learnt(flows.WayDirectReturn), note("as routed", "by eth1")},
		{"in vain", testhost.And(tried, tried), []string{vain + "2 were answered by every way" + trace}},
		{"in vain, without a gateway", testhost.And(tried, withoutGateway), nil}, // unknown-gateway
		{"in vain, through a director", testhost.And(tried, withoutGateway, director), []string{vain + "1 was answered by every way" + trace}},
		{"in vain, without ethernet", testhost.And(tried, withoutGateway, func(h *snapshot.Host) { h.Interfaces[1].MAC = nil }),
			[]string{strings.Replace(vain, testhost.BalancerMAC, "eth1", 1) + "1 was answered by every way" + trace}},
		{"in vain, observed", testhost.And(asRouted, observed), []string{vain + "1 was answered as routed: replypath only observes there, and enforcing tries other ways" +
			" => replypath mode enforce  # until the next start; for good: mode: enforce in /etc/replypath/replypath.yaml"}},
		{"not all tried yet", testhost.And(asRouted, early), nil},
		{"none tried", asked(flows.StateHalfOpen, false, 60), nil},
		{"another was completed", testhost.And(tried, asked(flows.StateEstablished, false, 1)), nil},
		{"and before", testhost.And(tried, learnt(flows.WayRule)), nil},
	})
	many := testhost.New()
	tried(many)
	if e := Senders(many)[0].Evidence; e == nil || e.Count != 1 || e.Until.Sub(*e.Since).Round(time.Second) != 6*time.Second {
		t.Errorf("%+v", e)
	}
	learnt(slices.Repeat([]string{flows.WayLastHop}, mostSenders+7)...)(many)
	found := Senders(many)
	if last := found[len(found)-1]; len(found) != mostSenders+1 || last.Found != "replies through 7 more senders go back to them or as routed" {
		t.Errorf("%d findings, at last %q", len(found), last.Found)
	}
}

func TestTranslatedAddresses(t *testing.T) {
	translated := func(changes ...func(*snapshot.Host)) func(*snapshot.Host) {
		return func(h *snapshot.Host) {
			h.Translations = []snapshot.Translation{{Address: testhost.Address("198.51.100.7"), Target: testhost.Address("10.17.0.100"), Count: 3}}
			testhost.And(changes...)(h)
		}
	}
	network := testhost.Prefixes("198.51.100.0/28")
	testhost.Check(t, TranslatedAddresses, []testhost.Wants{
		{"nothing is translated", nil, nil},
		{"nobody names it", translated(), []string{
			"warning: 198.51.100.7 is translated to 10.17.0.100 (3 connections): no interface has it, and no rule names it: replies go as routed" +
				" => add \"198.51.100.7\" to addresses in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"the configuration names it", translated(func(h *snapshot.Host) { h.Config.Addresses = network }), nil},
		{"a rule names it", translated(func(h *snapshot.Host) { h.Firewall.Translated = network }), nil},
		{"a local route", translated(func(h *snapshot.Host) { h.OwnPrefixes = []discover.OwnPrefix{{Prefix: network[0]}} }), nil},
		{"an interface has it", translated(func(h *snapshot.Host) {
			h.Own = append(h.Own, discover.OwnAddress{Address: testhost.Address("198.51.100.7")})
		}), nil},
	})
}
