// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"encoding/binary"
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
// The clients have 2001:db8:1000::/40 as well; the other IPv6 networks are in
// NewS4. The routers know all networks but the clients' IPv4
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

// The first addresses of the clients' networks; those of a client come so many after them.
var (
	s4Clients4 = netip.MustParsePrefix("10.16.0.0/12")
	s4Clients6 = netip.MustParsePrefix("2001:db8:1000::/40")
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
	outside, campus := s.Outside.Host, s.Campus.Host
	b.join(
		end{&s.Bond0, s.Box, "bond0", "192.168.34.97/30", "2001:db8:34::1/64"},
		end{nil, s.Inside, "eth0", "192.168.34.98/30", "2001:db8:34::2/64"})
	b.join(
		end{&s.Bond1, s.Box, "bond1", "192.0.2.2/30", "2001:db8:192::2/64"},
		end{nil, outside, "box", "192.0.2.1/30", "2001:db8:192::1/64"})
	b.join(
		end{&s.Eth0, s.Box, "eth0", "10.2.2.2/24", "2001:db8:2::2/64"},
		end{nil, campus, "box", "10.2.2.254/24", "2001:db8:2::254/64"})
	b.join(
		end{&s.InternetEth0, s.Internet, "eth0", "198.51.100.100/24", "2001:db8:198::100/64"},
		end{nil, outside, "internet", "198.51.100.1/24", "2001:db8:198::1/64"})
	b.join(
		end{&s.MonitorEth0, s.Monitor, "eth0", "129.67.1.100/24", "2001:db8:129::100/64"},
		end{nil, campus, "monitor", "129.67.1.1/24", "2001:db8:129::1/64"})
	b.join(
		end{nil, campus, "transit", "10.0.0.2/24", "2001:db8:0::2/64"},
		end{nil, outside, "transit", "10.0.0.1/24", "2001:db8:0::1/64"})
	b.routes(s.Box, "192.0.2.1", "2001:db8:192::1", "10.16.0.0/12 via 192.168.34.98", "2001:db8:1000::/40 via 2001:db8:34::2")
	b.routes(s.Inside, "192.168.34.97", "2001:db8:34::1")
	b.routes(s.Internet, "198.51.100.1", "2001:db8:198::1")
	b.routes(s.Monitor, "129.67.1.1", "2001:db8:129::1")
	b.routes(campus, "10.0.0.1", "2001:db8:0::1")
	b.routes(outside, "129.67.1.0/24 via 10.0.0.2", "2001:db8:129::/64 via 2001:db8:0::2",
		"10.2.2.0/24 via 10.0.0.2", "2001:db8:2::/64 via 2001:db8:0::2",
		"2001:db8:1000::/40 via 2001:db8:192::2") // what the box does not translate
	b.do(s.acceptClients)
	return s, b.finish(ctx, "s4", &s.Bond0, &s.Bond1, &s.Eth0)
}

// Client returns the address of a client.
func (s *S4) Client(f Family, number int) netip.Addr {
	first := s4Clients6
	if f == IPv4 {
		first = s4Clients4
	}
	a := first.Addr().AsSlice()
	low := a[len(a)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+uint32(number))
	address, _ := netip.AddrFromSlice(a)
	return address
}

// acceptClients makes all clients' addresses local ones of the inside host, as
// 127.0.0.0/8 is.
func (s *S4) acceptClients() error {
	lo, err := s.Inside.Interface("lo")
	if err != nil {
		return err
	}
	for _, clients := range []netip.Prefix{s4Clients4, s4Clients6} {
		err := s.Inside.handle.RouteAdd(&netlink.Route{
			Dst: ipNet(clients), LinkIndex: lo.Index,
			Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST,
		})
		if err != nil {
			return s.Inside.errorf("accept the clients' addresses: %w", err)
		}
	}
	// For IPv4, such a route alone lets sockets have an address.
	return s.Inside.SetSysctl("net/ipv6/ip_nonlocal_bind", "1")
}
