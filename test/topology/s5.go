// SPDX-License-Identifier: Apache-2.0

package topology

import "context"

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
