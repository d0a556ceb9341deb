// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

// S5 is a server with two NICs in one subnet:
//
//	                      neighbour 192.168.16.55 ─┐
//	client 10.9.0.100 ── router 192.168.16.1 ──────┤ switch ┬─ eth0 192.168.16.20 server
//	                                                        └─ eth1 192.168.16.21
//
// IPv6 has 2001:db8:16::/64 and 2001:db8:9::/64 with the same digits. The
// server has one default route, by the router and eth0.
type S5 struct {
	*Network
	Server            *Server
	Client, Neighbour *Host
	Router            *Router
	Switch            *Switch
	// RouterInside is the router's interface at the switch.
	ClientEth0, NeighbourEth0, RouterInside *Interface
}

// NewS5 builds the network and waits until it is ready.
func NewS5(ctx context.Context) (*S5, error) {
	b := newBuilder(Options{})
	s := &S5{Network: b.Network, Server: b.server("server"), Client: b.host("client"), Neighbour: b.host("neighbour")}
	s.Router = b.router("router", AnySource)
	s.Switch = b.plug("switch",
		end{&s.Server.Eth0, s.Server.Host, "eth0", "192.168.16.20/24", "2001:db8:16::20/64"},
		end{&s.Server.Eth1, s.Server.Host, "eth1", "192.168.16.21/24", "2001:db8:16::21/64"},
		end{&s.NeighbourEth0, s.Neighbour, "eth0", "192.168.16.55/24", "2001:db8:16::55/64"},
		end{&s.RouterInside, s.Router.Host, "inside", "192.168.16.1/24", "2001:db8:16::1/64"})
	b.join(
		end{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, s.Router.Host, "client", "10.9.0.1/24", "2001:db8:9::1/64"})
	for _, f := range s.Families() {
		b.do(func() error { return s.Server.AddRoute(Route{Via: s.RouterInside.Address(f), Interface: "eth0"}) })
	}
	b.routes(s.Client, "10.9.0.1", "2001:db8:9::1")
	return s, b.finish(ctx, "s5")
}

// S6 is a host with two uplinks to one provider:
//
//	                                     ┌─ 203.0.113.65  ── eth0 203.0.113.66/30
//	client 10.9.0.100 ── .1 provider ────┤                                        host
//	                                     └─ 203.0.113.233 ── eth1 203.0.113.234/30
//
// IPv6 has 2001:db8:65::2/64 for eth0, 2001:db8:233::2/64 for eth1, with the
// provider at ::1, and 2001:db8:9::100 for the client.
//
// The default route of the host is by eth1. The provider checks sources
// strictly.
type S6 struct {
	*Network
	// Server is the host with the two uplinks.
	Server     *Server
	Provider   *Router
	Client     *Host
	ClientEth0 *Interface
}

// NewS6 builds the network and waits until it is ready.
func NewS6(ctx context.Context) (*S6, error) {
	b := newBuilder(Options{})
	s := &S6{Network: b.Network, Server: b.server("host"), Client: b.host("client")}
	s.Provider = b.router("provider", StrictSource)
	host, provider := s.Server.Host, s.Provider.Host
	b.join(
		end{&s.Server.Eth0, host, "eth0", "203.0.113.66/30", "2001:db8:65::2/64"},
		end{nil, provider, "uplink0", "203.0.113.65/30", "2001:db8:65::1/64"})
	b.join(
		end{&s.Server.Eth1, host, "eth1", "203.0.113.234/30", "2001:db8:233::2/64"},
		end{nil, provider, "uplink1", "203.0.113.233/30", "2001:db8:233::1/64"})
	b.join(
		end{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, provider, "client", "10.9.0.1/24", "2001:db8:9::1/64"})
	for _, f := range s.Families() {
		b.do(func() error {
			var more []netip.Prefix
			for _, a := range s.ClientAddresses(f)[1:] {
				more = append(more, netip.PrefixFrom(a, a.BitLen()))
			}
			return s.ClientEth0.addAddresses(more)
		})
	}
	b.routes(host, "203.0.113.233", "2001:db8:233::1")
	b.routes(s.Client, "10.9.0.1", "2001:db8:9::1")
	return s, b.finish(ctx, "s6", &s.Server.Eth0, &s.Server.Eth1)
}

// ClientAddresses are all of the client's of a family, the first of which is its interface's: so many that a choice by a
// hash of the addresses cannot send all of them one way by chance.
func (s *S6) ClientAddresses(f Family) []netip.Addr {
	addresses := []netip.Addr{s.ClientEth0.Address(f)}
	for range 15 {
		addresses = append(addresses, addresses[len(addresses)-1].Next())
	}
	return addresses
}
