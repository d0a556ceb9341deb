// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"fmt"
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
	At         []*Router
	Inside     []*Interface
	ClientEth0 *Interface
}

// buildRouters has eth1 with its addresses, and those of each of its routers, whose policy all routers have.
func buildRouters(policy Policy, eth1 [2]string, inside ...[2]string) (*Routers, *builder) {
	b := newBuilder(Options{})
	r := &Routers{Network: b.Network, Server: b.server("server"), Client: b.host("client"), Inside: make([]*Interface, len(inside))}
	r.Production = b.router("production", policy)
	within := []end{{&r.Server.Eth1, r.Server.Host, "eth1", eth1[0], eth1[1]}}
	outside := []end{{&r.ClientEth0, r.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		{nil, r.Production.Host, "outside", "10.9.0.4/24", "2001:db8:9::4/64"}}
	for i, addresses := range inside {
		router := b.router(fmt.Sprint("router", i+1), policy)
		r.At = append(r.At, router)
		within = append(within, end{&r.Inside[i], router.Host, "inside", addresses[0], addresses[1]})
		outside = append(outside, end{nil, router.Host, "outside", fmt.Sprintf("10.9.0.%d/24", i+1), fmt.Sprintf("2001:db8:9::%d/64", i+1)})
	}
	b.plug("inside", within...)
	b.plug("outside", outside...)
	b.join(
		end{&r.Server.Eth0, r.Server.Host, "eth0", "10.1.0.100/24", "2001:db8:11::100/64"},
		end{nil, r.Production.Host, "server", "10.1.0.1/24", "2001:db8:11::1/64"})
	return r, b
}

// NewRouters builds the network and waits until it is ready.
func NewRouters(ctx context.Context) (*Routers, error) {
	r, b := buildRouters(AnySource, [2]string{"192.168.1.100/24", "2001:db8:1::100/64"},
		[2]string{"192.168.1.1/24", "2001:db8:1::1/64"},
		[2]string{"192.168.1.2/24", "2001:db8:1::2/64"},
		[2]string{"192.168.1.3/24", "2001:db8:1::3/64"})
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
type Uplinks struct{ *Routers }

// Own returns eth1 with the addresses of one provider alone.
func (u *Uplinks) Own(provider int) *Interface {
	own := *u.Server.Eth1
	own.Addresses = own.Addresses[2*provider:][:2]
	return &own
}

// NewUplinks builds the network and waits until it is ready.
func NewUplinks(ctx context.Context) (*Uplinks, error) {
	r, b := buildRouters(StrictSource, [2]string{"10.4.0.100/32", "2001:db8:4::100/128"},
		[2]string{"10.4.0.1/24", "2001:db8:4::1/64"}, [2]string{"10.5.0.1/24", "2001:db8:5::1/64"})
	b.do(func() error {
		second := b.addresses("10.5.0.100/32", "2001:db8:5::100/128")
		r.Server.Eth1.Addresses = append(r.Server.Eth1.Addresses, second...)
		return r.Server.Eth1.addAddresses(second)
	})
	for _, via := range []string{"10.1.0.1", "2001:db8:11::1"} {
		b.do(func() error { return r.Server.AddRoute(Route{Via: netip.MustParseAddr(via), Metric: 100}) })
	}
	b.routes(r.Client,
		"10.4.0.0/24 via 10.9.0.1", "2001:db8:4::/64 via 2001:db8:9::1",
		"10.5.0.0/24 via 10.9.0.2", "2001:db8:5::/64 via 2001:db8:9::2",
		"10.1.0.0/24 via 10.9.0.4", "2001:db8:11::/64 via 2001:db8:9::4")
	return &Uplinks{r}, b.finish(ctx, "of uplinks", &r.Server.Eth0)
}
