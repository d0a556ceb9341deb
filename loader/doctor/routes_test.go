package doctor

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
)

// route adds a route to the fixture.
func route(r Route) func(*Host) { return func(h *Host) { h.Routes = append(h.Routes, r) } }

// refusing is a route of the main table that refuses.
func refusing(kind int, dst string) Route {
	p := prefix(dst)
	return Route{Family: familyOf(p), Type: kind, Table: unix.RT_TABLE_MAIN, Dst: p, Protocol: unix.RTPROT_BOOT}
}

// inTable puts a route in another table.
func inTable(r Route, table int) Route {
	r.Table = table
	return r
}

func TestRoutedInterfaces(t *testing.T) {
	const (
		text = ", which is not managed (not named by the configuration): no reply is moved away from there, and no flow that comes in by it is recorded"
		fix  = " => add {name: eth0} under interfaces in /etc/replypath/replypath.yaml, then systemctl reload replypath"
	)
	onlyEth1 := func(h *Host) {
		h.Config.Interfaces = []config.Interface{{Name: "eth1"}}
		h.Interfaces = h.Interfaces[1:]
		h.Unmanaged = []discover.Unmanaged{{Name: "eth0", Reason: "not named by the configuration"}}
	}
	runTable(t, routedInterfaces, []wants{
		{"managed", nil, nil},
		{"not named", onlyEth1, []string{
			"warning eth0: ipv4: the default route leads by eth0" + text + fix, "warning eth0: ipv6: the default route leads by eth0" + text + fix,
		}},
		{"a better one by what is named", func(h *Host) {
			onlyEth1(h)
			h.Routes[0].Metric, h.Routes[1].Metric = 100, 100
			h.Routes = append(h.Routes, via("10.4.0.1", eth1), via("2001:db8:4::1", eth1))
		}, nil},
		{"no default route", func(h *Host) { onlyEth1(h); h.Routes = nil }, nil},
		{"discovered", func(h *Host) {
			h.Interfaces, h.Routes = h.Interfaces[1:], h.Routes[:1]
			h.Unmanaged = []discover.Unmanaged{{Name: "eth0", Reason: `ignore_interfaces "eth0"`}}
		}, []string{
			"warning eth0: ipv4: the default route leads by eth0" + strings.Replace(text, "not named by the configuration", `ignore_interfaces "eth0"`, 1) +
				" => set interfaces: [{name: eth1}, {name: eth0}] in /etc/replypath/replypath.yaml, then systemctl reload replypath",
		}},
		{"never to be managed", func(h *Host) {
			h.Interfaces, h.Routes = h.Interfaces[1:], h.Routes[:1]
			h.Unmanaged = []discover.Unmanaged{{Name: "eth0", Reason: "a VRF: its ports count"}}
		}, []string{
			"warning eth0: ipv4: the default route leads by eth0" + strings.Replace(text, "not named by the configuration", "a VRF: its ports count", 1) +
				" => ip -details link show dev eth0  # it can never be managed: a VRF: its ports count",
		}},
	})
}

func TestDefaultRoutes(t *testing.T) {
	const (
		ipv4  = "ok: ipv4: default via 10.3.0.1 dev eth0"
		ipv6  = "ok: ipv6: default via 2001:db8:3::1 dev eth0"
		none  = ": no default route: no reply to peers beyond the networks of this host is built"
		alone = "  # no router is known here; what this host starts needs a default route, too"
		start = " => systemctl start replypath" + alone
		goes0 = "  # what this host starts goes by eth0 from then on, unless another route says otherwise"
		goes1 = "  # what this host starts goes by eth1 from then on, unless another route says otherwise"
	)
	runTable(t, defaultRoutes, []wants{
		{"both", nil, []string{ipv4, ipv6}},
		{"none, a gateway is known", func(h *Host) { h.Routes = h.Routes[1:] }, []string{
			"error: ipv4" + none + " => ip route add default via 10.3.0.1 dev eth0" + goes0, ipv6,
		}},
		{"none, and one interface of the family", func(h *Host) {
			h.Routes = h.Routes[1:]
			h.Interfaces[1].Addresses = h.Interfaces[1].Addresses[1:]
		}, []string{"error: ipv4" + none + " => ip route add default via 10.3.0.1 dev eth0", ipv6}},
		{"none", func(h *Host) { h.Routes = h.Routes[:1] }, []string{ipv4, "error: ipv6" + none + start}},
		{"none, a neighbour is a router", func(h *Host) {
			h.Routes = h.Routes[:1]
			h.Neighbours = []Neighbour{{Interface: eth1, Address: address("fe80::1"), Router: true}, {Interface: eth1, Address: address("10.4.0.1"), Router: true}}
		}, []string{ipv4, "error: ipv6" + none + " => ip -6 route add default via fe80::1 dev eth1" + goes1}},
		{"none, packets come from afar", func(h *Host) {
			h.Routes, h.Gateways = h.Routes[1:], nil
			throughBalancer(h)
			h.Flows[1].Peer = "192.0.2.1"
		}, []string{"error: ipv4" + none + " => ip route add default via 10.4.0.1 dev eth1" + goes1, ipv6}},
		{"none, no fallback", func(h *Host) { h.Routes = h.Routes[:1]; h.Config.FallbackRoute = false }, []string{
			ipv4, "error: ipv6" + none + " => set fallback_route: true in /etc/replypath/replypath.yaml, then systemctl reload replypath",
		}},
		{"none, attached", func(h *Host) { h.Routes = h.Routes[:1]; h.Attached = true }, []string{
			ipv4, "error: ipv6" + none + " => ip -6 neigh show dev eth0" + alone + ": which router eth0 has is for you to say",
		}},
		{"none, addresses that lead nowhere", func(h *Host) {
			h.Routes = h.Routes[:1]
			for n := range h.Interfaces {
				h.Interfaces[n].Addresses = prefixes("10.3.0.100/24", "fd00:7::1/64")
			}
		}, []string{ipv4, "warning: ipv6" + none + start}},
		{"by a rule only", func(h *Host) {
			h.Routes[1] = inTable(h.Routes[1], 100)
			h.Rules = append(h.Rules, Rule{Family: unix.AF_INET6, Priority: 5, Src: prefix("2001:db8:3::100/128"), Table: 100})
		}, []string{ipv4, "error: ipv6" + none + ", except by the rules that lead to table 100" + start}},
		{"by a rule for everything", func(h *Host) {
			h.Routes[0] = inTable(h.Routes[0], 100)
			h.Rules = append(h.Rules, Rule{Family: unix.AF_INET, Priority: 5, Table: 100})
		}, []string{ipv4 + " table 100", ipv6}},
		{"unreachable", func(h *Host) { h.Routes[0] = refusing(unix.RTN_UNREACHABLE, "0.0.0.0/0") }, []string{
			"error: ipv4: the default route is unreachable default: no reply to peers beyond it is built => ip route del unreachable default", ipv6,
		}},
		{"blackhole before the real one", func(h *Host) {
			h.Routes[1].Metric = 1024
			h.Routes = append(h.Routes, refusing(unix.RTN_BLACKHOLE, "::/0"))
		}, []string{
			ipv4, "error: ipv6: the default route is blackhole default: no reply to peers beyond it is built => ip -6 route del blackhole default",
		}},
		{"prohibit behind the real one", func(h *Host) {
			last := refusing(unix.RTN_PROHIBIT, "0.0.0.0/0")
			last.Metric = 4096
			h.Routes = append(h.Routes, last)
		}, []string{ipv4, ipv6}},
		{"our own device only", func(h *Host) {
			h.Devices = append(h.Devices, Device{Index: 9, Name: "replypath0"})
			h.Routes[0] = via("", 9)
		}, []string{
			"warning: ipv4: no default route but that of replypath0: replies are built, what the host starts fails => ip route add default via 10.3.0.1 dev eth0" + goes0, ipv6,
		}},
		{"vrfs only", func(h *Host) {
			h.Devices[1].VRF, h.Devices[2].VRF = true, true
			h.Routes = nil
		}, nil},
		{"no ipv6", func(h *Host) {
			for n := range h.Interfaces {
				h.Interfaces[n].Addresses = h.Interfaces[n].Addresses[:1]
			}
			h.Routes = h.Routes[:1]
		}, []string{ipv4}},
	})
}

func TestRefusingRoutes(t *testing.T) {
	const text = ": no reply to peers there is built => ip "
	runTable(t, refusingRoutes, []wants{
		{"none", route(refusing(unix.RTN_UNREACHABLE, "0.0.0.0/0")), nil},
		{"of all kinds", func(h *Host) {
			h.Routes = []Route{
				refusing(unix.RTN_UNREACHABLE, "10.9.0.0/24"), refusing(unix.RTN_BLACKHOLE, "2001:db8:9::/64"),
				inTable(refusing(unix.RTN_PROHIBIT, "10.8.0.0/16"), 7), refusing(unix.RTN_THROW, "10.7.0.0/16"),
			}
		}, []string{
			"warning: unreachable 10.9.0.0/24" + text + "route del unreachable 10.9.0.0/24",
			"warning: blackhole 2001:db8:9::/64" + text + "-6 route del blackhole 2001:db8:9::/64",
			"warning: prohibit 10.8.0.0/16 table 7" + text + "route del prohibit 10.8.0.0/16 table 7",
		}},
		{"of a routing daemon", func(h *Host) {
			for _, protocol := range []int{unix.RTPROT_KERNEL, unix.RTPROT_BIRD, 80, unix.RTPROT_BGP} {
				r := refusing(unix.RTN_BLACKHOLE, "10.244.0.0/26")
				r.Protocol = protocol
				h.Routes = append(h.Routes, r)
			}
		}, nil},
		{"a rule", func(h *Host) {
			h.Rules = append(h.Rules, Rule{Family: unix.AF_INET6, Priority: 7, Dst: prefix("2001:db8:9::/64"), Refuses: "prohibit"})
		}, []string{
			"warning: rule 7: from all to 2001:db8:9::/64 prohibit: no reply that it matches is built => ip -6 rule del priority 7 from all to 2001:db8:9::/64 prohibit",
		}},
	})
	h := newHost()
	for n := range 20 {
		route(refusing(unix.RTN_BLACKHOLE, fmt.Sprintf("10.%d.0.0/16", n+100)))(h)
	}
	found := refusingRoutes(h)
	if len(found) != mostRoutes+1 || found[mostRoutes].Found != "12 more routes or rules refuse" {
		t.Errorf("of 20: %q", lines(found))
	}
}

func TestRoutesWithoutGateway(t *testing.T) {
	const (
		text    = ": without a gateway every peer is asked for by arp and gets a neighbour entry"
		replies = "  # no router is known here; replies need none with replypath, what this host starts does"
	)
	runTable(t, routesWithoutGateway, []wants{
		{"none", nil, nil},
		{"a gateway is known", func(h *Host) { h.Routes[0].Gateway = address("10.3.0.1"); route(via("", eth1))(h) }, []string{
			"warning eth1: default dev eth1" + text + " => ip route replace default via 10.4.0.1 dev eth1  # " + attributes,
		}},
		{"several gateways are known", func(h *Host) {
			h.Gateways[1].State = nexthop.StateFailed
			h.Gateways = append(h.Gateways, nexthop.Gateway{Interface: eth1, Address: address("10.4.0.2"), State: nexthop.StateStale, IPv4: true})
			route(via("", eth1))(h)
		}, []string{"warning eth1: default dev eth1" + text + " => ip route replace default via 10.4.0.2 dev eth1  # " + attributes}},
		{"no gateway is known", func(h *Host) {
			h.Gateways = nil
			route(inTable(via("", eth1), 7))(h)
		}, []string{"warning eth1: default dev eth1 table 7" + text + " => ip route del default dev eth1 table 7" + replies}},
		{"one of several hops", func(h *Host) { r := via("", eth1); r.Others = "nexthop via 10.3.0.1 dev eth0 weight 2"; route(r)(h) }, []string{
			"warning eth1: default dev eth1" + text + " => ip route replace default nexthop via 10.3.0.1 dev eth0 weight 2 nexthop via 10.4.0.1 dev eth1  # " + attributes,
		}},
		{"one of several hops, no gateway is known", func(h *Host) {
			h.Gateways = nil
			r := via("", eth1)
			r.Others, r.Metric = "nexthop dev eth0 nexthop via 10.3.0.1 dev eth0", 9
			route(r)(h)
		}, []string{
			"warning eth1: default dev eth1 metric 9" + text + " => ip route replace default metric 9 nexthop dev eth0 nexthop via 10.3.0.1 dev eth0" + replies,
		}},
		{"half of everything", func(h *Host) { r := via("", eth1); r.Dst = prefix("128.0.0.0/1"); h.Gateways = nil; route(r)(h) }, []string{
			"warning eth1: 128.0.0.0/1 dev eth1" + text + " => ip route del 128.0.0.0/1 dev eth1" + replies,
		}},
		{"ipv6", func(h *Host) {
			route(Route{Family: unix.AF_INET6, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: prefix("2000::/3"), Device: eth1})(h)
		}, []string{"warning eth1: 2000::/3 dev eth1: without a gateway every peer is asked for by neighbour discovery and gets a neighbour entry => ip -6 route del 2000::/3 dev eth1" + replies}},
		{"a network", func(h *Host) { r := via("", eth1); r.Dst = prefix("10.0.0.0/8"); route(r)(h) }, nil},
		{"without arp", func(h *Host) { h.Interfaces[1].NoARP = true; route(via("", eth1))(h) }, nil},
		{"not managed", func(h *Host) {
			h.Devices = append(h.Devices, Device{Index: 9, Name: "replypath0"})
			route(via("", 9))(h)
		}, nil},
	})
}

func TestOwnGateways(t *testing.T) {
	const reload = " in /etc/replypath/replypath.yaml, then systemctl reload replypath"
	runTable(t, ownGateways, []wants{
		{"none", nil, nil},
		{"of a route", func(h *Host) { r := inTable(via("10.4.0.100", eth1), 100); r.Metric = 5; route(r)(h) }, []string{
			"error eth1: default via 10.4.0.100 dev eth1 table 100 metric 5: the gateway is this host itself => ip route del default via 10.4.0.100 dev eth1 table 100 metric 5",
		}},
		{"one of several hops", func(h *Host) {
			r := via("2001:db8:4::100", eth1)
			r.Others = "nexthop via 2001:db8:3::1 dev eth0"
			route(r)(h)
		}, []string{
			"error eth1: default via 2001:db8:4::100 dev eth1: the gateway is this host itself => ip -6 route replace default nexthop via 2001:db8:3::1 dev eth0",
		}},
		{"of the configuration", func(h *Host) {
			h.Interfaces[1].Settings.Gateways = append(h.Interfaces[1].Settings.Gateways, address("10.3.0.100"))
		}, []string{
			"error eth1: gateway 10.3.0.100 of the configuration is this host itself => remove gateways: [10.3.0.100] of eth1" + reload,
		}},
		{"one of the configuration", func(h *Host) {
			h.Interfaces[1].Settings.Gateways = []netip.Addr{address("10.4.0.1"), address("10.3.0.100"), address("10.4.0.2")}
		}, []string{
			"error eth1: gateway 10.3.0.100 of the configuration is this host itself => set gateways: [10.4.0.1, 10.4.0.2] of eth1" + reload,
		}},
	})
}
