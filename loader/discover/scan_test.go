// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

func TestDiscovery(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 address 02:00:00:00:00:01 type veth peer name far0
link add eth1 type veth peer name far1
link add eth2 type veth peer name far2
link add docker0 type bridge
link add lan0 type bridge
link add guests0 type bridge
link add empty0 type bridge
link add tap1 type veth peer name far3
link add port1 type vxlan id 1 dstport 4789 local 10.1.0.100
link add replypath0 type veth peer name far4
tuntap add tap2 mode tap
tuntap add tun0 mode tun
link set tap1 master guests0
link set tap2 master guests0
link set port1 master lan0
link property add dev eth0 altname enp1s0 altname production
link add mac0 link eth0 type macvlan
link set eth0 mtu 1400 up
link set far0 up
link set eth1 up
link set eth2 up
addr add 10.1.0.100/24 dev eth0
addr add 10.1.0.101/24 dev eth0
addr add 2001:db8:1::100/64 dev eth0
addr add 10.2.0.100/24 dev eth1
addr add 169.254.7.7/16 dev eth2
addr add 172.17.0.1/16 dev docker0
addr add 10.5.0.1/24 dev lan0
addr add 10.6.0.1/24 dev guests0
addr add 10.7.0.1/24 dev empty0
addr add 10.8.0.1/24 dev tap1
addr add 10.9.0.1/24 dev tun0
addr add 10.10.0.1/24 dev replypath0
`)
	r := scan(t, h, config.Default())

	await.Same(t, "managed", []string{"eth0", "eth1", "lan0", "mac0", "tun0"}, slices.Sorted(slices.Values(names(r))))
	want := map[string]string{
		"lo":         "loopback",
		"far0":       "no global address",
		"far1":       "no global address",
		"far2":       "no global address",
		"far3":       "no global address",
		"far4":       "no global address",
		"eth2":       "no global address",
		"docker0":    `ignore_interfaces "docker*"`,
		"guests0":    "bridge with no port but veth or tap",
		"empty0":     "bridge with no port but veth or tap",
		"tap1":       "a port of guests0, which counts in its place",
		"tap2":       "a port of guests0, which counts in its place",
		"port1":      "a port of lan0, which counts in its place",
		"replypath0": "replypath's own device",
	}
	await.Same(t, "unmanaged", want, reasons(r))
	await.Same(t, "warnings", nil, r.Warnings)
	if !slices.IsSortedFunc(r.Interfaces, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) }) {
		t.Errorf("not in the order of their index: %v", r.Interfaces)
	}
	eth0 := Interface{
		Index:     indexOf(t, h, "eth0"),
		Name:      "eth0",
		AltNames:  []string{"enp1s0", "production"},
		MAC:       net.HardwareAddr{2, 0, 0, 0, 0, 1},
		MTU:       1400,
		Up:        true,
		Addresses: []netip.Prefix{prefix("10.1.0.100/24"), prefix("10.1.0.101/24"), prefix("2001:db8:1::100/64")},
		Settings:  config.Interface{Name: "eth0", Mode: config.ModeEnforce, NextHop: config.NextHopAuto, HostModel: config.HostModelWeak},
	}
	await.Same(t, "eth0", eth0, find(t, r, "eth0"))
	if eth1 := find(t, r, "eth1"); eth1.Up {
		t.Error("eth1 is up without a carrier")
	}
	if tun := find(t, r, "tun0"); tun.MAC != nil || !tun.NoARP {
		t.Errorf("tun0 has MAC %v, NoARP %v", tun.MAC, tun.NoARP)
	}
}

func find(t *testing.T, r Result, name string) Interface {
	t.Helper()
	i := slices.IndexFunc(r.Interfaces, func(i Interface) bool { return i.Name == name })
	if i < 0 {
		t.Fatalf("%s is not managed: %q", name, reasons(r))
	}
	return r.Interfaces[i]
}

// A bridge of virtual machines is managed where one of them is a router, and a modem records for all addresses where a route leads
// out of it. Both stay so while the route is gone. A modem without a route, and a bridge that has had a single guest, for which
// nothing is forwarded, record requests for their own addresses.
func TestLeadsOut(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add vmbr1 type bridge
link add tap1 type veth peer name far1
link add tap2 type veth peer name far2
tuntap add ppp0 mode tun
tuntap add wwan0 mode tun
tuntap add tun0 mode tun
link set vmbr1 up
link set tap1 up
link set far1 up
link set ppp0 up
link set wwan0 up
link set tun0 up
addr add 10.4.0.100 peer 10.4.0.1 dev ppp0
addr add 10.6.0.100/24 dev tun0
`)
	before := make(map[int]*Interface) // what is managed, as of the step before
	for _, step := range []struct{ commands, forwards, all, own string }{
		{"", "0", "", "ppp0 tun0"},
		{"link set tap1 master vmbr1", "0", "", "ppp0 tun0"},
		{"addr add 10.5.0.1/24 dev vmbr1", "1", "", "ppp0 tun0"},
		{"", "0", "", "vmbr1 ppp0 tun0"},
		{"link set tap1 nomaster", "0", "", "vmbr1 ppp0 tun0"},
		{"link set tap1 master vmbr1\nlink set tap2 master vmbr1", "0", "", "vmbr1 ppp0 tun0"},
		{"", "1", "", "ppp0 tun0"},
		{"route add 10.9.0.0/16 via 10.5.0.9", "1", "vmbr1", "ppp0 tun0"},
		{"route add default dev ppp0 table 9\nroute add default dev wwan0\nroute add default dev tun0 metric 9", "1", "vmbr1 ppp0 wwan0", "tun0"},
		{"route del 10.9.0.0/16\nroute del default dev ppp0 table 9", "1", "vmbr1 ppp0 wwan0", "tun0"},
	} {
		host.IPBatch(t, h, step.commands)
		await.Must(t, h.SetSysctl("net/ipv4/ip_forward", step.forwards))
		var all, own []string
		await.Must(t, h.Do(func() error {
			routes := NewRoutes()
			await.Must(t, dump.ReadRoutes(routes))
			r, err := ScanServed(h.Netlink(), config.Default(), func(index int) *Interface { return before[index] }, routes)
			clear(before)
			for _, i := range r.Interfaces {
				before[i.Index] = &i
				if i.OwnOnly {
					own = append(own, i.Name)
				} else {
					all = append(all, i.Name)
				}
				if is := i.OwnOnly && i.Name == "vmbr1"; i.IsUntended() != is {
					t.Errorf("%s is untended: %v", i.Name, !is)
				}
			}
			return err
		}))
		await.Same(t, "recording for all own addresses after "+step.commands, step.all, strings.Join(all, " "))
		await.Same(t, "recording for their own after "+step.commands, step.own, strings.Join(own, " "))
	}
}

// TestCaught: replies are caught on interfaces that are not managed, whatever the reason, where a route with a gateway, or one
// that no single link can have, leads out of them; in any table and family.
func TestCaught(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name far0
link add eth1 type veth peer name far1
tuntap add tailscale0 mode tun
tuntap add tun1 mode tun
tuntap add tun2 mode tun
tuntap add tun3 mode tun
tuntap add tun4 mode tun
tuntap add tun5 mode tun
link set eth0 up
link set far0 up
link set eth1 up
link set far1 up
link set tailscale0 up
link set tun1 up
link set tun2 up
link set tun3 up
link set tun4 up
link set tun5 up
addr add 10.3.0.100/24 dev eth0
addr add 10.4.0.100/24 dev eth1
route add default via 10.3.0.1
route add default dev tailscale0 table 52
route add default dev tun1 metric 7
route add 128.0.0.0/1 dev tun2
route add 10.0.0.0/8 dev tun3
route add 224.0.0.0/4 dev tun4
route add blackhole 10.9.0.0/16
route add local 10.8.0.0/16 dev tun5 table 7
route add 2001:db8::/32 via fe80::1 dev tun5 table 7
`)
	caught := func(cfg *config.Config) (names []string) {
		for _, i := range scan(t, h, cfg).Caught {
			if !i.Catches {
				t.Errorf("%s does not catch", i.Name)
			}
			names = append(names, i.Name)
		}
		return names
	}
	for _, test := range []struct {
		interfaces []config.Interface
		want       []string
	}{
		{nil, []string{"tailscale0", "tun1", "tun2", "tun5"}},
		{[]config.Interface{{Name: "eth1"}}, []string{"eth0", "tailscale0", "tun1", "tun2", "tun5"}},
		{[]config.Interface{{Name: "eth9"}}, nil},
	} {
		await.Same(t, fmt.Sprintf("caught with %v", test.interfaces), test.want, caught(named(test.interfaces...)))
	}
}

func indexOf(t *testing.T, h *topology.Host, name string) int {
	t.Helper()
	link := await.Must1[netlink.Link](t)(h.Netlink().LinkByName(name))
	return link.Attrs().Index
}

// TestOwnAddresses: of an address that several devices carry none is the only one, and of one that lo carries as well.
func TestOwnAddresses(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name far0
link set eth0 up
link set far0 up
addr add 10.1.0.100/24 dev eth0
addr add 10.1.0.1 peer 10.1.0.2 dev far0
addr add 0.1.0.100/24 dev eth0
addr add 240.1.0.100/24 dev eth0
addr add 192.0.2.1/32 dev lo
addr add 192.0.2.2/32 dev lo
addr add 192.0.2.2/32 dev eth0
addr add 2001:db8::1/128 dev lo
route add local 198.51.100.7/32 dev lo
route add local 198.51.100.9/32 dev far0
route add local 198.51.100.128/25 dev lo
route add local 203.0.113.0/24 dev eth0
route add local 2001:db8:9::/64 dev lo
route add local default dev lo table 100
route add local 10.8.0.0/16 dev lo table 100
route add local 10.8.0.1/32 dev lo table 100
route add local 2001:db8:8::/64 dev lo table 100
`)
	r := scan(t, h, config.Default())
	const lo, several = 1, 0
	eth0, far0 := indexOf(t, h, "eth0"), indexOf(t, h, "far0")
	own := []OwnAddress{
		{address("0.1.0.100"), false, eth0},
		{address("10.1.0.1"), false, far0},
		{address("10.1.0.100"), false, eth0},
		{address("192.0.2.1"), true, lo},
		{address("192.0.2.2"), false, several},
		{address("198.51.100.7"), true, lo},
		{address("198.51.100.9"), false, far0},
		{address("240.1.0.100"), false, eth0},
		{address("2001:db8::1"), true, lo},
	}
	await.Same(t, "own addresses", own, r.Own)
	prefixes := []OwnPrefix{
		{prefix("198.51.100.128/25"), true},
		{prefix("203.0.113.0/24"), false},
		{prefix("2001:db8:9::/64"), true},
	}
	await.Same(t, "own prefixes", prefixes, r.OwnPrefixes)
}

func TestOnLink(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name far0
link add eth1 type veth peer name far1
link set eth0 up
link set far0 up
link set eth1 up
link set far1 up
addr add 10.1.0.100/24 dev eth0
addr add 2001:db8:1::100/64 dev eth0
addr add 10.2.0.1 peer 10.2.0.2/32 dev eth1
addr add 10.3.0.1/24 dev eth1 noprefixroute
addr add 2001:db8:3::1/64 dev eth1 noprefixroute
addr add 2001:db8:4::1 peer 2001:db8:4::2 dev eth1
addr add 192.0.2.1/32 dev eth1
addr add 2001:db8:5::1/128 dev eth1
route add default via 10.1.0.1
route add default via 10.2.0.2 table 7
route add default dev eth1 table 8
route add 10.9.0.0/24 via 10.1.0.1
route add 10.10.0.0/24 dev eth1
route add 10.11.0.0/24 dev eth1 table 100
route add 10.12.0.0/24 nexthop dev eth0 nexthop dev eth1
route add 10.13.0.0/24 dev far1
route add unreachable 10.14.0.0/24
route add 2001:db8:6::/64 dev eth0
route add 2001:db8:7::/64 via 2001:db8:1::1
route add 2001:db8:8::/64 dev eth1 table 100
`)
	// The kernel adds the route to a peer of IPv6 a moment later (net/ipv6/addrconf.c, addrconf_dad_work()).
	await.Eventually(t, "the route to 2001:db8:4::2", func() error {
		routes, err := h.Command(t.Context(), "ip", "-6", "route", "show", "2001:db8:4::2").Output()
		if err == nil && len(routes) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	r := scan(t, h, config.Default())
	eth0, eth1 := find(t, r, "eth0").Index, find(t, r, "eth1").Index
	want := []OnLink{
		{eth0, prefix("10.1.0.0/24"), true},
		{eth0, prefix("10.12.0.0/24"), true},
		{eth0, prefix("2001:db8:1::/64"), true},
		{eth0, prefix("2001:db8:6::/64"), true},
		{eth1, prefix("10.2.0.2/32"), true},
		{eth1, prefix("10.3.0.0/24"), false},
		{eth1, prefix("10.10.0.0/24"), true},
		{eth1, prefix("10.11.0.0/24"), true},
		{eth1, prefix("10.12.0.0/24"), true},
		{eth1, prefix("2001:db8:3::/64"), false},
		{eth1, prefix("2001:db8:4::2/128"), true},
		{eth1, prefix("2001:db8:8::/64"), true},
	}
	slices.SortStableFunc(want, func(a, b OnLink) int { return cmp.Compare(a.Interface, b.Interface) })
	await.Same(t, "on-link", want, r.OnLink)
}

func TestStrayGateways(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name far0
link set eth0 up
link set far0 up
addr add 10.1.0.100/24 dev eth0
addr add 192.0.2.1/32 dev eth0
route add default via 172.31.1.1 dev eth0 onlink
`)
	cfg := named(config.Interface{Name: "eth0", Gateways: []netip.Addr{
		address("10.1.0.1"), address("10.4.0.1"), address("172.31.1.1"), address("fe80::1"), address("2001:db8::1"),
	}})
	want := []string{
		"gateway 10.4.0.1 is outside the present networks of interface eth0: it is used once it answers there",
		"gateway 2001:db8::1 is outside the present networks of interface eth0: it is used once it answers there",
	}
	await.Same(t, "warnings", want, scan(t, h, cfg).Warnings)
	host.IPBatch(t, h, "addr add 10.4.0.100/24 dev eth0\naddr add 2001:db8::2/64 dev eth0")
	await.Same(t, "warnings with the addresses there", nil, scan(t, h, cfg).Warnings)
}

// An address that duplicate address detection refused is the host's all the same.
func TestAddressInAnyState(t *testing.T) {
	h := traffic.NewHost(t)
	host.IPBatch(t, h, `
link add eth0 type veth peer name far0
link set eth0 up
addr add 2001:db8::1/64 dev eth0 preferred_lft 0
addr add 2001:db8::2/64 dev eth0 nodad
`)
	await.Must(t, h.SetSysctl("net/ipv6/conf/eth0/accept_dad", "1"))
	await.Must(t, h.SetSysctl("net/ipv6/conf/eth0/dad_transmits", "10"))
	host.IPBatch(t, h, "addr add 2001:db8::3/64 dev eth0") // tentative, as there is no carrier
	r := scan(t, h, config.Default())
	eth0 := find(t, r, "eth0").Index
	want := []OwnAddress{{address("2001:db8::1"), false, eth0}, {address("2001:db8::2"), false, eth0}, {address("2001:db8::3"), false, eth0}}
	await.Same(t, "own addresses", want, r.Own)
	await.Same(t, "addresses of eth0", 3, len(find(t, r, "eth0").Addresses))
}

// scan scans a host.
func scan(t *testing.T, h *topology.Host, cfg *config.Config) Result {
	t.Helper()
	var r Result
	await.Must(t, h.Do(func() (err error) {
		r, err = Scan(h.Netlink(), cfg)
		return err
	}))
	return r
}

// named returns the default configuration with these interfaces.
func named(interfaces ...config.Interface) *config.Config {
	cfg := config.Default()
	cfg.Interfaces = interfaces
	return cfg
}

// names lists the managed interfaces.
func names(r Result) []string {
	var names []string
	for _, i := range r.Interfaces {
		names = append(names, i.Name)
	}
	return names
}

// reasons tells why the others are not managed.
func reasons(r Result) map[string]string {
	reasons := map[string]string{}
	for _, u := range r.Unmanaged {
		reasons[u.Name] = u.Reason
	}
	return reasons
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func address(s string) netip.Addr { return netip.MustParseAddr(s) }
