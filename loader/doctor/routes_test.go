package doctor

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
)

// ofProtocol has somebody make a route.
func ofProtocol(r Route, protocol int) Route {
	r.Protocol = protocol
	return r
}

func TestRoutedInterfaces(t *testing.T) {
	const (
		text = ", which is not managed (not named by the configuration): no reply is moved away from there, and no flow that comes in by it is recorded"
		fix  = " => add {name: eth0} under interfaces in /etc/replypath/replypath.yaml, then systemctl reload replypath"
	)
	leftOut := func(reason string, families ...int) func(*Host) {
		return func(h *Host) {
			h.Interfaces = h.Interfaces[1:]
			h.Unmanaged = []discover.Unmanaged{{Name: "eth0", Reason: reason}}
			for _, family := range families {
				h.Astray = append(h.Astray, discover.Astray{Family: family, Name: "eth0", Reason: reason})
			}
		}
	}
	runTable(t, routedInterfaces, []wants{
		{"managed", nil, nil},
		{"not named", func(h *Host) {
			h.Config.Interfaces = []config.Interface{{Name: "eth1"}}
			leftOut("not named by the configuration", unix.AF_INET, unix.AF_INET6)(h)
		}, []string{
			"warning eth0: ipv4: the default route leads by eth0" + text + fix, "warning eth0: ipv6: the default route leads by eth0" + text + fix,
		}},
		{"no default route", leftOut("not named by the configuration"), nil},
		{"discovered", leftOut(`ignore_interfaces "eth0"`, unix.AF_INET), []string{
			"warning eth0: ipv4: the default route leads by eth0" + strings.Replace(text, "not named by the configuration", `ignore_interfaces "eth0"`, 1) +
				" => set interfaces: [{name: eth1}, {name: eth0}] in /etc/replypath/replypath.yaml, then systemctl reload replypath",
		}},
		{"never to be managed", leftOut("a VRF: its ports count", unix.AF_INET), []string{
			"warning eth0: ipv4: the default route leads by eth0" + strings.Replace(text, "not named by the configuration", "a VRF: its ports count", 1) +
				" ?? ip -details link show dev eth0  # it can never be managed: a VRF: its ports count",
		}},
	})
}

func TestDefaultRoutes(t *testing.T) {
	const (
		ipv4  = "ok: ipv4: default via 10.3.0.1 dev eth0"
		ipv6  = "ok: ipv6: default via 2001:db8:3::1 dev eth0"
		none  = ": no default route: no reply to peers beyond the networks of this host is built"
		start = " => systemctl start replypath  # replies are built then; what this host starts needs a default route, too"
	)
	runTable(t, defaultRoutes, []wants{
		{"both", nil, []string{ipv4, ipv6}},
		{"none of ipv4", func(h *Host) { h.Routes = h.Routes[1:] }, []string{"error: ipv4" + none + start, ipv6}},
		{"none", func(h *Host) { h.Routes = h.Routes[:1] }, []string{ipv4, "error: ipv6" + none + start}},
		{"none, no fallback", func(h *Host) { h.Routes = h.Routes[:1]; h.Config.FallbackRoute = false }, []string{
			ipv4, "error: ipv6" + none + " => set fallback_route: true in /etc/replypath/replypath.yaml, then systemctl reload replypath",
		}},
		{"none, attached", func(h *Host) { h.Routes = h.Routes[:1]; h.Attached = true }, []string{
			ipv4, "error: ipv6" + none + " ?? ip -6 route show table all default",
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
			"error: ipv4: the default route is unreachable default: no reply to peers beyond it is built ?? ip route show table main", ipv6,
		}},
		{"blackhole before the real one", func(h *Host) {
			h.Routes[1].Metric = 1024
			h.Routes = append(h.Routes, refusing(unix.RTN_BLACKHOLE, "::/0"))
		}, []string{
			ipv4, "error: ipv6: the default route is blackhole default: no reply to peers beyond it is built ?? ip -6 route show table main",
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
			"warning: ipv4: no default route but that of replypath0: replies are built, what the host starts fails ?? ip route show table all default", ipv6,
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
	const text = ": no reply to peers there is built ?? ip "
	runTable(t, refusingRoutes, []wants{
		{"none", route(refusing(unix.RTN_UNREACHABLE, "0.0.0.0/0")), nil},
		{"of all kinds", func(h *Host) {
			h.Routes = []Route{
				refusing(unix.RTN_UNREACHABLE, "10.9.0.0/24"), refusing(unix.RTN_BLACKHOLE, "2001:db8:9::/64"),
				inTable(refusing(unix.RTN_PROHIBIT, "10.8.0.0/16"), 7), refusing(unix.RTN_THROW, "10.7.0.0/16"),
			}
		}, []string{
			"warning: unreachable 10.9.0.0/24" + text + "route show table main",
			"warning: blackhole 2001:db8:9::/64" + text + "-6 route show table main",
			"warning: prohibit 10.8.0.0/16 table 7" + text + "route show table 7",
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
			"warning: rule 7: from all to 2001:db8:9::/64 prohibit: no reply that it matches is built ?? ip -6 rule show",
		}},
		{"a rule by a mark of tailscale's, and one by the same bits alone", func(h *Host) {
			refusing := Rule{Family: unix.AF_INET, Priority: 5250, Mark: 0x80000, Mask: 0xff0000, Refuses: "unreachable"}
			h.Rules = append(h.Rules, refusing)
			refusing.Mask = allBits
			h.Rules = append(h.Rules, refusing)
		}, []string{
			"ok: rule 5250: from all fwmark 0x80000/0xff0000 unreachable: it refuses packets with the mark of Tailscale only ?? ip rule show @ Tailscale",
			"warning: rule 5250: from all fwmark 0x80000 unreachable: no reply that it matches is built ?? ip rule show",
		}},
		{"of networkd", route(ofProtocol(refusing(unix.RTN_UNREACHABLE, "10.9.0.0/24"), unix.RTPROT_STATIC)), []string{
			"warning: unreachable 10.9.0.0/24" + text + "route show table main @ systemd-networkd or NetworkManager",
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
		text = ": without a gateway every peer is asked for by arp and gets a neighbour entry ?? ip route show table "
	)
	runTable(t, routesWithoutGateway, []wants{
		{"none", nil, nil},
		{"a gateway is known", func(h *Host) { h.Routes[0].Gateway = address("10.3.0.1"); route(via("", eth1))(h) }, []string{
			"warning eth1: default dev eth1" + text + "main",
		}},
		{"no gateway is known", func(h *Host) {
			h.Gateways = nil
			route(inTable(via("", eth1), 7))(h)
		}, []string{"warning eth1: default dev eth1 table 7" + text + "7"}},
		{"half of everything", func(h *Host) { r := via("", eth1); r.Dst = prefix("128.0.0.0/1"); h.Gateways = nil; route(r)(h) }, []string{
			"warning eth1: 128.0.0.0/1 dev eth1" + text + "main",
		}},
		{"ipv6", func(h *Host) {
			route(Route{Family: unix.AF_INET6, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: prefix("2000::/3"), Device: eth1})(h)
		}, []string{"warning eth1: 2000::/3 dev eth1: without a gateway every peer is asked for by neighbour discovery and gets a neighbour entry ?? ip -6 route show table main"}},
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
			"error eth1: default via 10.4.0.100 dev eth1 table 100 metric 5: the gateway is this host itself ?? ip route show table 100",
		}},
		{"cilium's", route(inTable(via("10.4.0.100", eth1), 2005)), []string{
			"ok eth1: default via 10.4.0.100 dev eth1 table 2005: the gateway is this host itself, as Cilium has it ?? ip route show table 2005 @ Cilium",
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
