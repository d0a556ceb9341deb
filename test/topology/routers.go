// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

// Routers is a server with two NICs, one of which has three routers on it:
//
//	                   ┌─ .1 router 1 192.168.1.1 ─┐
//	                   ├─ .2 router 2 192.168.1.2 ─┼─ eth1 192.168.1.100 ┐
//	client 10.9.0.100 ─┼─ .3 router 3 192.168.1.3 ─┘                     server
//	                   └─ .4 production 10.1.0.1 ──── eth0 10.1.0.100 ───┘
//
// IPv6 has 2001:db8:1::/64 for the routers' network, 2001:db8:11::/64 for
// eth0's and 2001:db8:9::/64 for the client's, with the same last digits. The
// server's default route is by eth0, and the client's by production; which
// router brings questions for eth1 is left to the caller. All of them forward
// everything.
type Routers struct {
	*Network
	Server     *Server
	Client     *Host
	Production *Router
	// At are the routers of eth1, and Inside their interfaces there.
	At         [3]*Router
	Inside     [3]*Interface
	ClientEth0 *Interface
}

// NewRouters builds the network and waits until it is ready.
func NewRouters(ctx context.Context) (*Routers, error) {
	b := newBuilder(Options{})
	r := &Routers{Network: b.Network, Server: b.server("server"), Client: b.host("client")}
	r.Production = b.router("production", AnySource)
	for i, name := range []string{"router1", "router2", "router3"} {
		r.At[i] = b.router(name, AnySource)
	}
	b.plug("inside",
		end{&r.Server.Eth1, r.Server.Host, "eth1", "192.168.1.100/24", "2001:db8:1::100/64"},
		end{&r.Inside[0], r.At[0].Host, "inside", "192.168.1.1/24", "2001:db8:1::1/64"},
		end{&r.Inside[1], r.At[1].Host, "inside", "192.168.1.2/24", "2001:db8:1::2/64"},
		end{&r.Inside[2], r.At[2].Host, "inside", "192.168.1.3/24", "2001:db8:1::3/64"})
	b.plug("outside",
		end{&r.ClientEth0, r.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, r.At[0].Host, "outside", "10.9.0.1/24", "2001:db8:9::1/64"},
		end{nil, r.At[1].Host, "outside", "10.9.0.2/24", "2001:db8:9::2/64"},
		end{nil, r.At[2].Host, "outside", "10.9.0.3/24", "2001:db8:9::3/64"},
		end{nil, r.Production.Host, "outside", "10.9.0.4/24", "2001:db8:9::4/64"})
	b.join(
		end{&r.Server.Eth0, r.Server.Host, "eth0", "10.1.0.100/24", "2001:db8:11::100/64"},
		end{nil, r.Production.Host, "server", "10.1.0.1/24", "2001:db8:11::1/64"})
	b.routes(r.Server.Host, "10.1.0.1", "2001:db8:11::1")
	b.routes(r.Client, "10.9.0.4", "2001:db8:9::4")
	return r, b.finish(ctx, "of routers", &r.Server.Eth0)
}

// Uplinks is a server with two NICs, one of which has the routers of two providers on it, that take nothing but what has an
// address of their own:
//
//	                   ┌─ .1 provider 1 10.4.0.1 ─┐
//	                   ├─ .2 provider 2 10.5.0.1 ─┴─ eth1 10.4.0.100, 10.5.0.100 ┐
//	client 10.9.0.100 ─┤                                                         server
//	                   └─ .4 production 10.1.0.1 ─── eth0 10.1.0.100 ────────────┘
//
// IPv6 has 2001:db8:4::/64, 2001:db8:5::/64, 2001:db8:11::/64 for eth0 and 2001:db8:9::/64 for the client, with the same last
// digits. The client answers by the provider of the address. The server's default route is by eth0, before any that it learns.
// Of eth1 it has the addresses alone, without their networks, and no route.
type Uplinks struct {
	*Network
	Server     *Server
	Client     *Host
	Production *Router
	// At are the providers' routers, Inside their interfaces at eth1.
	At         [2]*Router
	Inside     [2]*Interface
	ClientEth0 *Interface
}

// Own returns eth1 with the addresses of one provider alone.
func (u *Uplinks) Own(provider int) *Interface {
	own := *u.Server.Eth1
	own.Addresses = own.Addresses[2*provider:][:2]
	return &own
}

// NewUplinks builds the network and waits until it is ready.
func NewUplinks(ctx context.Context) (*Uplinks, error) {
	b := newBuilder(Options{})
	u := &Uplinks{Network: b.Network, Server: b.server("server"), Client: b.host("client")}
	u.Production = b.router("production", StrictSource)
	for i, name := range []string{"provider1", "provider2"} {
		u.At[i] = b.router(name, StrictSource)
	}
	b.plug("inside",
		end{&u.Server.Eth1, u.Server.Host, "eth1", "10.4.0.100/32", "2001:db8:4::100/128"},
		end{&u.Inside[0], u.At[0].Host, "inside", "10.4.0.1/24", "2001:db8:4::1/64"},
		end{&u.Inside[1], u.At[1].Host, "inside", "10.5.0.1/24", "2001:db8:5::1/64"})
	b.do(func() error {
		second := b.addresses("10.5.0.100/32", "2001:db8:5::100/128")
		u.Server.Eth1.Addresses = append(u.Server.Eth1.Addresses, second...)
		return u.Server.Eth1.addAddresses(second)
	})
	b.plug("outside",
		end{&u.ClientEth0, u.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, u.At[0].Host, "outside", "10.9.0.1/24", "2001:db8:9::1/64"},
		end{nil, u.At[1].Host, "outside", "10.9.0.2/24", "2001:db8:9::2/64"},
		end{nil, u.Production.Host, "outside", "10.9.0.4/24", "2001:db8:9::4/64"})
	b.join(
		end{&u.Server.Eth0, u.Server.Host, "eth0", "10.1.0.100/24", "2001:db8:11::100/64"},
		end{nil, u.Production.Host, "server", "10.1.0.1/24", "2001:db8:11::1/64"})
	for _, via := range []string{"10.1.0.1", "2001:db8:11::1"} {
		b.do(func() error { return u.Server.AddRoute(Route{Via: netip.MustParseAddr(via), Metric: 100}) })
	}
	b.routes(u.Client,
		"10.4.0.0/24 via 10.9.0.1", "2001:db8:4::/64 via 2001:db8:9::1",
		"10.5.0.0/24 via 10.9.0.2", "2001:db8:5::/64 via 2001:db8:9::2",
		"10.1.0.0/24 via 10.9.0.4", "2001:db8:11::/64 via 2001:db8:9::4")
	return u, b.finish(ctx, "of uplinks", &u.Server.Eth0)
}
