// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

func TestDefaultRoutes(t *testing.T) {
	const (
		ipv4  = "ok: ipv4: default via 10.3.0.1 dev eth0"
		ipv6  = "ok: ipv6: default via 2001:db8:3::1 dev eth0"
		none  = " has no default route: no reply to peers beyond the networks of this host is built"
		start = " => systemctl start replypath  # replies are built then; what this host starts needs a default route, too"
	)
	testhost.Check(t, DefaultRoutes, []testhost.Wants{
		{"both", nil, []string{ipv4, ipv6}},
		{"none of ipv4", func(h *snapshot.Host) { h.Routes = h.Routes[1:] }, []string{"error: ipv4" + none + start, ipv6}},
		{"none", func(h *snapshot.Host) { h.Routes = h.Routes[:1] }, []string{ipv4, "error: ipv6" + none + start}},
		{"none, no fallback", func(h *snapshot.Host) { h.Routes = h.Routes[:1]; h.Config.FallbackRoute = false }, []string{
			ipv4, "error: ipv6" + none + " => set fallback_route: true in /etc/replypath/replypath.yaml, then systemctl reload replypath",
		}},
		{"none, attached", func(h *snapshot.Host) { h.Routes = h.Routes[:1]; h.Attached = true }, []string{ipv4, "error: ipv6" + none + " ?? ip -6 route show table all default"}},
		{"none, addresses that lead nowhere", func(h *snapshot.Host) {
			h.Routes = h.Routes[:1]
			for n := range h.Interfaces {
				h.Interfaces[n].Addresses = testhost.Prefixes("10.3.0.100/24", "fd00:7::1/64")
			}
		}, []string{ipv4, "warning: ipv6" + none + start}},
		{"by a rule only", func(h *snapshot.Host) {
			h.Routes[1] = testhost.InTable(h.Routes[1], 100)
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET6, Priority: 5, Src: testhost.Prefix("2001:db8:3::100/128"), Table: 100})
		}, []string{ipv4, "error: ipv6" + none + ", except by the rules that lead to table 100" + start}},
		{"by a rule for everything", func(h *snapshot.Host) {
			h.Routes[0] = testhost.InTable(h.Routes[0], 100)
			h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Priority: 5, Table: 100})
		}, []string{ipv4 + " table 100", ipv6}},
		{"unreachable", func(h *snapshot.Host) { h.Routes[0] = testhost.Refusing(unix.RTN_UNREACHABLE, "0.0.0.0/0") }, []string{
			"error: ipv4: the default route is unreachable default: no reply to peers beyond it is built ?? ip route show table main", ipv6,
		}},
		{"blackhole before the real one", func(h *snapshot.Host) {
			h.Routes[1].Metric = 1024
			h.Routes = append(h.Routes, testhost.Refusing(unix.RTN_BLACKHOLE, "::/0"))
		}, []string{ipv4, "error: ipv6: the default route is blackhole default: no reply to peers beyond it is built ?? ip -6 route show table main"}},
		{"prohibit behind the real one", func(h *snapshot.Host) {
			last := testhost.Refusing(unix.RTN_PROHIBIT, "0.0.0.0/0")
			last.Metric = 4096
			h.Routes = append(h.Routes, last)
		}, []string{ipv4, ipv6}},
		{"our own device only", func(h *snapshot.Host) {
			h.Devices = append(h.Devices, snapshot.Device{Index: 9, Name: "replypath0"})
			h.Routes = h.Routes[1:]
		}, []string{"warning: ipv4 has no default route but that of replypath0: replies are built, what the host starts fails ?? ip route show table all default", ipv6}},
		{"our own device only, since the default route is gone", func(h *snapshot.Host) {
			h.Devices = append(h.Devices, snapshot.Device{Index: 9, Name: "replypath0"})
			h.Routes, h.LedBy = h.Routes[1:], map[int]string{unix.AF_INET: "10.3.0.1 of eth0"}
		}, []string{
			"error: ipv4 has no default route but that of replypath0: replies are built, what the host starts fails, as the one by 10.3.0.1 of eth0 is gone" +
				" ?? ip route show table all default", ipv6,
		}},
		{"by what is down", func(h *snapshot.Host) { h.Interfaces[0].Up, h.Routes = false, h.Routes[:1] }, []string{
			"error: ipv4: the default route by eth0 is down: what the host starts fails ?? ip route show table main",
			"error: ipv6" + none + start,
		}},
		{"by what is down, and another", func(h *snapshot.Host) {
			h.Interfaces[0].Up, h.Routes = false, append(h.Routes, testhost.Via("10.4.0.1", testhost.Eth1), testhost.Via("2001:db8:4::1", testhost.Eth1))
		}, []string{ipv4, ipv6}},
		{"vrfs only", func(h *snapshot.Host) {
			h.Interfaces[0].VRF, h.Interfaces[1].VRF = 9, 9
			h.Routes = nil
		}, nil},
		{"no ipv6", func(h *snapshot.Host) {
			for n := range h.Interfaces {
				h.Interfaces[n].Addresses = h.Interfaces[n].Addresses[:1]
			}
			h.Routes = h.Routes[:1]
		}, []string{ipv4}},
	})
}

func TestOwnGateways(t *testing.T) {
	const reload = " in /etc/replypath/replypath.yaml, then systemctl reload replypath"
	testhost.Check(t, OwnGateways, []testhost.Wants{
		{"none", nil, nil},
		{"of a route", func(h *snapshot.Host) {
			r := testhost.InTable(testhost.Via("10.4.0.100", testhost.Eth1), 100)
			r.Metric = 5
			testhost.Route(r)(h)
		}, []string{"error eth1: default via 10.4.0.100 dev eth1 table 100 metric 5 has a gateway that is this host itself ?? ip route show table 100"}},
		{"Cilium's, to its own device", testhost.Route(testhost.InTable(testhost.Via("10.4.0.100", 9), 2005)), nil},
		{"of the configuration", func(h *snapshot.Host) {
			h.Interfaces[1].Settings.Gateways = append(h.Interfaces[1].Settings.Gateways, testhost.Address("10.3.0.100"))
		}, []string{"error eth1: gateway 10.3.0.100 of the configuration is this host itself => remove gateways: [10.3.0.100] of eth1" + reload}},
		{"one of the configuration", func(h *snapshot.Host) {
			h.Interfaces[1].Settings.Gateways = []netip.Addr{testhost.Address("10.4.0.1"), testhost.Address("10.3.0.100"), testhost.Address("10.4.0.2")}
		}, []string{"error eth1: gateway 10.3.0.100 of the configuration is this host itself => set gateways: [10.4.0.1, 10.4.0.2] of eth1" + reload}},
	})
}
