// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

// S2 is the network of a load balancer that translates addresses (LVS-NAT and
// many appliances), with its real server and a client in one subnet:
//
//	                         balancer, 10.0.0.1 virtual
//	outside 10.9.0.100 ── 10.9.0.1 eth1   eth0 192.168.1.1 ─┐
//	                       client 192.168.1.55 eth0 ────────┤ switch
//	                       server 192.168.1.200 eth0 ───────┘
//
// IPv6 has 2001:db8:1::/64 for the switch's subnet, 2001:db8:9::/64 for the
// outside and 2001:db8::1 for the virtual address; the last digits are the same.
//
// The default route of the client and of the server is the balancer, which
// forwards and answers pings. Its translation is left to the caller.
type S2 struct {
	*Network
	Balancer                *Router
	Server, Client, Outside *Host
	// ServerEth0 and so on are the interfaces. The Peer of those in the subnet is a port of the switch.
	ServerEth0, ClientEth0, BalancerEth0, OutsideEth0 *Interface
}

// NewS2 builds the network and waits until it is ready.
func NewS2(ctx context.Context) (*S2, error) {
	b := newBuilder(Options{})
	s := &S2{Network: b.Network, Server: b.host("server"), Client: b.host("client"), Outside: b.host("outside")}
	s.Balancer = b.router("balancer", AnySource)
	b.loopback(s.Balancer.Host, "10.0.0.1/32", "2001:db8::1/128")
	b.plug("lan",
		end{&s.BalancerEth0, s.Balancer.Host, "eth0", "192.168.1.1/24", "2001:db8:1::1/64"},
		end{&s.ClientEth0, s.Client, "eth0", "192.168.1.55/24", "2001:db8:1::55/64"},
		end{&s.ServerEth0, s.Server, "eth0", "192.168.1.200/24", "2001:db8:1::200/64"})
	b.join(
		end{&s.OutsideEth0, s.Outside, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, s.Balancer.Host, "eth1", "10.9.0.1/24", "2001:db8:9::1/64"})
	b.routes(s.Server, "192.168.1.1", "2001:db8:1::1")
	b.routes(s.Client, "192.168.1.1", "2001:db8:1::1")
	b.routes(s.Outside, "10.9.0.1", "2001:db8:9::1")
	return s, b.finish(ctx, "s2")
}

// Virtual returns the balancer's virtual address.
func (s *S2) Virtual(f Family) netip.Addr { return inFamily(f, "10.0.0.1", "2001:db8::1") }

// S3a is a real server of LVS with direct routing: requests to the virtual
// address, which it has on lo, come from the director, and its answers go to
// the client without it. The router is at another MAC than the director:
//
//	                          ┌─ director 192.168.1.1 ─────────┐
//	client 10.9.0.100 ── router                                switch ── eth0 192.168.1.200 server
//	                          └─ 192.168.1.254 ────────────────┘
//
// or, with Apart, at another NIC:
//
//	                          ┌─ director 192.168.1.1 ──────────── eth0 192.168.1.200
//	client 10.9.0.100 ── router                                                       server
//	                          └─ 192.168.2.254 ─────────────────── eth1 192.168.2.200
//
// The virtual address is 10.0.0.1. IPv6 has 2001:db8:1:: and so on with the
// same digits, and 2001:db8::1. The default route of the server is the router.
// The router sends what is for the virtual address to the director and, with
// Apart, what is for 192.168.1.0/24 as well, which the director forwards. What
// the director does with the virtual address is left to the caller.
type S3a struct {
	*Network
	Server, Client   *Host
	Director, Router *Router
	// Eth0 is the interface of the real server's address; Eth1 is nil unless they are apart.
	Eth0, Eth1 *Interface
	ClientEth0 *Interface
	// DirectorInside is the director's interface at the real server's, and RouterInside the router's at the interface
	// of the server's default route.
	DirectorInside, RouterInside *Interface
}

// NewS3a builds the network and waits until it is ready.
func NewS3a(ctx context.Context, apart bool) (*S3a, error) {
	b := newBuilder(Options{})
	s := &S3a{Network: b.Network, Server: b.host("server"), Client: b.host("client")}
	s.Director, s.Router = b.router("director", AnySource), b.router("router", AnySource)
	director, router := s.Director.Host, s.Router.Host
	for _, h := range []*Host{director, s.Server} {
		b.loopback(h, "10.0.0.1/32", "2001:db8::1/128")
	}
	b.join(
		end{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, router, "client", "10.9.0.1/24", "2001:db8:9::1/64"})
	b.join(
		end{nil, director, "outside", "10.8.0.2/24", "2001:db8:8::2/64"},
		end{nil, router, "director", "10.8.0.1/24", "2001:db8:8::1/64"})
	server := end{&s.Eth0, s.Server, "eth0", "192.168.1.200/24", "2001:db8:1::200/64"}
	inside := end{&s.DirectorInside, director, "inside", "192.168.1.1/24", "2001:db8:1::1/64"}
	b.routes(s.Client, "10.9.0.1", "2001:db8:9::1")
	b.routes(director, "10.8.0.1", "2001:db8:8::1")
	b.routes(router, "10.0.0.1/32 via 10.8.0.2", "2001:db8::1/128 via 2001:db8:8::2")
	if apart {
		b.join(server, inside)
		b.join(
			end{&s.Eth1, s.Server, "eth1", "192.168.2.200/24", "2001:db8:2::200/64"},
			end{&s.RouterInside, router, "inside", "192.168.2.254/24", "2001:db8:2::254/64"})
		b.routes(router, "192.168.1.0/24 via 10.8.0.2", "2001:db8:1::/64 via 2001:db8:8::2")
		b.routes(s.Server, "192.168.2.254", "2001:db8:2::254")
	} else {
		b.plug("lan", server, inside,
			end{&s.RouterInside, router, "inside", "192.168.1.254/24", "2001:db8:1::254/64"})
		b.routes(s.Server, "192.168.1.254", "2001:db8:1::254")
	}
	return s, b.finish(ctx, "s3a")
}

// Virtual returns the virtual address.
func (s *S3a) Virtual(f Family) netip.Addr { return inFamily(f, "10.0.0.1", "2001:db8::1") }

// S3c is a server with one NIC behind two directors that translate addresses:
//
//	                       10.0.1.1 virtual
//	                   ┌── 10.9.0.1 director 1 192.168.1.1 ──┐
//	client 10.9.0.100 ─┤                                     ├─ eth0 192.168.1.2, 192.168.2.2 server
//	                   └── 10.9.0.2 director 2 192.168.2.1 ──┘
//	                       10.0.2.1 virtual
//
// IPv6 has the same digits: 2001:db8:1::2 and 2001:db8:2::2 for the server,
// 2001:db8:9::100 for the client; the virtual addresses are 2001:db8:101::1 and
// 2001:db8:102::1. The server's only default route is director 1; the client
// reaches each virtual address by its director. Translation is left to the
// caller.
type S3c struct {
	*Network
	Server, Client *Host
	Directors      [2]*Router
	// DirectorEth0 are the directors' interfaces at the server's.
	DirectorEth0           [2]*Interface
	ServerEth0, ClientEth0 *Interface
}

// NewS3c builds the network and waits until it is ready.
func NewS3c(ctx context.Context) (*S3c, error) {
	b := newBuilder(Options{})
	s := &S3c{Network: b.Network, Server: b.host("server"), Client: b.host("client")}
	for i, name := range []string{"director1", "director2"} {
		s.Directors[i] = b.router(name, AnySource)
		b.loopback(s.Directors[i].Host, s.Virtual(i, IPv4).String()+"/32", s.Virtual(i, IPv6).String()+"/128")
	}
	b.plug("inside",
		end{&s.ServerEth0, s.Server, "eth0", "192.168.1.2/24", "2001:db8:1::2/64"},
		end{&s.DirectorEth0[0], s.Directors[0].Host, "eth0", "192.168.1.1/24", "2001:db8:1::1/64"},
		end{&s.DirectorEth0[1], s.Directors[1].Host, "eth0", "192.168.2.1/24", "2001:db8:2::1/64"})
	b.plug("outside",
		end{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, s.Directors[0].Host, "eth1", "10.9.0.1/24", "2001:db8:9::1/64"},
		end{nil, s.Directors[1].Host, "eth1", "10.9.0.2/24", "2001:db8:9::2/64"})
	b.do(func() error { return s.ServerEth0.addAddresses(b.addresses("192.168.2.2/24", "2001:db8:2::2/64")) })
	b.routes(s.Server, "192.168.1.1", "2001:db8:1::1")
	b.routes(s.Client,
		"10.0.1.1/32 via 10.9.0.1", "2001:db8:101::1/128 via 2001:db8:9::1",
		"10.0.2.1/32 via 10.9.0.2", "2001:db8:102::1/128 via 2001:db8:9::2")
	return s, b.finish(ctx, "s3c")
}

// Virtual returns the virtual address of a director, 0 or 1.
func (s *S3c) Virtual(director int, f Family) netip.Addr {
	if director == 0 {
		return inFamily(f, "10.0.1.1", "2001:db8:101::1")
	}
	return inFamily(f, "10.0.2.1", "2001:db8:102::1")
}

// Real returns the server's address behind a director, 0 or 1.
func (s *S3c) Real(director int, f Family) netip.Addr {
	if director == 0 {
		return inFamily(f, "192.168.1.2", "2001:db8:1::2")
	}
	return inFamily(f, "192.168.2.2", "2001:db8:2::2")
}
