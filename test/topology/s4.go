// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// S4 is the network of a box that forwards many clients and is managed by an
// interface of its own:
//
//	clients 10.16.0.0/12                 box
//	inside 192.168.34.98 ─── 192.168.34.97 bond0
//	internet 198.51.100.100 ── outside router ── 192.0.2.2 bond1, default route
//	                                 │
//	monitor 129.67.1.100 ──── campus router ──── 10.2.2.2 eth0
//
// The clients have 2001:db8:1000::/40 as well; see the variables below for the
// other IPv6 networks. The routers know all networks but the clients' IPv4
// addresses, which the box is to translate, and forward only what comes in by
// the interface that the route to its source leaves by.
//
// The bonds of the real box are ends of a cable here. The inside host accepts
// packets for all clients' addresses and can send from each of them.
type S4 struct {
	*Network
	// Box is the host between the networks; Bond0 is its interface on the inside, Bond1 that on the outside, Eth0 that
	// of the management.
	Box                *Host
	Bond0, Bond1, Eth0 *Interface
	Inside             *Host
	Outside, Campus    *Router
	Internet, Monitor  *Host
	// InternetEth0 and MonitorEth0 are the only interfaces of these hosts.
	InternetEth0, MonitorEth0 *Interface
}

// dual is a network with a prefix of each family.
type dual struct{ v4, v6 netip.Prefix }

func newDual(v4, v6 string) dual {
	return dual{netip.MustParsePrefix(v4), netip.MustParsePrefix(v6)}
}

func (d dual) prefix(f Family) netip.Prefix {
	if f == IPv4 {
		return d.v4
	}
	return d.v6
}

// host returns the address of a host, with the length of the prefix. The digits of the number are the same in both
// families.
func (d dual) host(f Family, number int) netip.Prefix {
	a := d.prefix(f).Addr().AsSlice()
	if f == IPv6 {
		number = digitsAsHex(number)
	}
	for i := len(a) - 1; number > 0; i-- {
		number += int(a[i])
		a[i] = byte(number)
		number >>= 8
	}
	address, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(address, d.prefix(f).Bits())
}

// digitsAsHex returns 0x123 for 123.
func digitsAsHex(number int) int {
	result := 0
	for shift := 0; number > 0; shift += 4 {
		result |= number % 10 << shift
		number /= 10
	}
	return result
}

func (d dual) hosts(number int) []netip.Prefix {
	return []netip.Prefix{d.host(IPv4, number), d.host(IPv6, number)}
}

// The networks of S4.
var (
	s4Inside   = newDual("192.168.34.96/30", "2001:db8:34::/64")
	s4Clients  = newDual("10.16.0.0/12", "2001:db8:1000::/40")
	s4Outside  = newDual("192.0.2.0/30", "2001:db8:192::/64")
	s4Managed  = newDual("10.2.2.0/24", "2001:db8:2::/64")
	s4Internet = newDual("198.51.100.0/24", "2001:db8:198::/64")
	s4Campus   = newDual("129.67.1.0/24", "2001:db8:129::/64")
	s4Transit  = newDual("10.0.0.0/24", "2001:db8:0::/64")
)

// Host numbers in S4.
const (
	s4Box          = 2   // on the outside and in the management network
	s4Management   = 254 // the gateway of the management network
	s4BoxInside    = 1
	s4InsideRouter = 2
)

// NewS4 builds the network and waits until it is ready.
func NewS4(ctx context.Context) (*S4, error) {
	b := newBuilder(Options{})
	s := &S4{
		Network: b.Network,
		Box:     b.host("box"), Inside: b.host("inside"), Internet: b.host("internet"), Monitor: b.host("monitor"),
	}
	s.Outside, s.Campus = b.router("outside", StrictSource), b.router("campus", StrictSource)
	b.do(func() error { return s.Box.forward() })
	var unused *Interface
	for _, c := range []struct {
		to            **Interface
		network       dual
		host          *Host
		name          string
		number        int
		gateway       *Host
		gatewayName   string
		gatewayNumber int
	}{
		{&s.Bond0, s4Inside, s.Box, "bond0", s4BoxInside, s.Inside, "eth0", s4InsideRouter},
		{&s.Bond1, s4Outside, s.Box, "bond1", s4Box, s.Outside.Host, "box", gatewayNumber},
		{&s.Eth0, s4Managed, s.Box, "eth0", s4Box, s.Campus.Host, "box", s4Management},
		{&s.InternetEth0, s4Internet, s.Internet, "eth0", serverNumber, s.Outside.Host, "internet", gatewayNumber},
		{&s.MonitorEth0, s4Campus, s.Monitor, "eth0", serverNumber, s.Campus.Host, "monitor", gatewayNumber},
		{&unused, s4Transit, s.Campus.Host, "transit", transitNumber, s.Outside.Host, "transit", gatewayNumber},
	} {
		b.do(func() (err error) {
			*c.to, _, err = s.Connect(
				NIC{Host: c.host, Name: c.name, Addresses: c.network.hosts(c.number)},
				NIC{Host: c.gateway, Name: c.gatewayName, Addresses: c.network.hosts(c.gatewayNumber)},
			)
			return err
		})
	}
	b.do(s.addRoutes)
	b.do(s.acceptClients)
	return s, b.finish(ctx, "s4", &s.Bond0, &s.Bond1, &s.Eth0)
}

// Client returns the address of a client.
func (s *S4) Client(f Family, number int) netip.Addr {
	return s4Clients.host(f, number).Addr()
}

func (s *S4) addRoutes() error {
	for _, f := range s.Families() {
		via := func(d dual, number int) Route { return Route{Via: d.host(f, number).Addr()} }
		to := func(destination dual, r Route) Route {
			r.Destination = destination.prefix(f)
			return r
		}
		for _, r := range []struct {
			host  *Host
			route Route
		}{
			{s.Box, via(s4Outside, gatewayNumber)},
			{s.Box, to(s4Clients, via(s4Inside, s4InsideRouter))},
			{s.Inside, via(s4Inside, s4BoxInside)},
			{s.Internet, via(s4Internet, gatewayNumber)},
			{s.Monitor, via(s4Campus, gatewayNumber)},
			{s.Campus.Host, via(s4Transit, gatewayNumber)},
			{s.Outside.Host, to(s4Campus, via(s4Transit, transitNumber))},
			{s.Outside.Host, to(s4Managed, via(s4Transit, transitNumber))},
		} {
			if err := r.host.AddRoute(r.route); err != nil {
				return err
			}
		}
	}
	// What the box does not translate.
	return s.Outside.AddRoute(Route{Destination: s4Clients.v6, Via: s4Outside.host(IPv6, s4Box).Addr()})
}

// acceptClients makes all clients' addresses local ones of the inside host, as
// 127.0.0.0/8 is.
func (s *S4) acceptClients() error {
	lo, err := s.Inside.Interface("lo")
	if err != nil {
		return err
	}
	for _, f := range s.Families() {
		err := s.Inside.handle.RouteAdd(&netlink.Route{
			Dst: ipNet(s4Clients.prefix(f)), LinkIndex: lo.Index,
			Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST,
		})
		if err != nil {
			return s.Inside.errorf("accept the clients' addresses: %w", err)
		}
	}
	// For IPv4, such a route alone lets sockets have an address.
	return s.Inside.SetSysctl("net/ipv6/ip_nonlocal_bind", "1")
}
