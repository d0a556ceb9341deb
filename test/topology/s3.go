// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

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
	s := &S3a{Network: New(Options{})}
	for _, step := range []func() error{
		s.addHosts,
		func() error { return s.layCables(apart) },
		func() error { return s.addDefaults(apart) },
		func() error { return s.WaitReady(ctx) },
	} {
		if err := step(); err != nil {
			return nil, s.closeAfter("build network s3a", err)
		}
	}
	return s, nil
}

// Virtual returns the virtual address.
func (s *S3a) Virtual(f Family) netip.Addr { return inFamily(f, "10.0.0.1", "2001:db8::1") }

func (s *S3a) addHosts() error {
	err := s.makeHosts(newHost{&s.Server, "server"}, newHost{&s.Client, "client"})
	if err != nil {
		return err
	}
	if s.Director, err = s.Network.Router("director", AnySource); err != nil {
		return err
	}
	if s.Router, err = s.Network.Router("router", AnySource); err != nil {
		return err
	}
	virtual := s.addresses("10.0.0.1/32", "2001:db8::1/128")
	if err := s.Director.addToLoopback(virtual...); err != nil {
		return err
	}
	return s.Server.addToLoopback(virtual...)
}

func (s *S3a) layCables(apart bool) error {
	director, router := s.Director.Host, s.Router.Host
	err := s.join(
		[2]end{
			{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
			{nil, router, "client", "10.9.0.1/24", "2001:db8:9::1/64"},
		},
		[2]end{
			{nil, director, "outside", "10.8.0.2/24", "2001:db8:8::2/64"},
			{nil, router, "director", "10.8.0.1/24", "2001:db8:8::1/64"},
		})
	if err != nil {
		return err
	}
	server := end{&s.Eth0, s.Server, "eth0", "192.168.1.200/24", "2001:db8:1::200/64"}
	inside := end{&s.DirectorInside, director, "inside", "192.168.1.1/24", "2001:db8:1::1/64"}
	if apart {
		return s.join([2]end{server, inside}, [2]end{
			{&s.Eth1, s.Server, "eth1", "192.168.2.200/24", "2001:db8:2::200/64"},
			{&s.RouterInside, router, "inside", "192.168.2.254/24", "2001:db8:2::254/64"},
		})
	}
	lan, err := s.Switch("lan")
	if err != nil {
		return err
	}
	return lan.plug(server, inside,
		end{&s.RouterInside, router, "inside", "192.168.1.254/24", "2001:db8:1::254/64"})
}

func (s *S3a) addDefaults(apart bool) error {
	err := s.routeBy(s.Client, [2]string{"", "10.9.0.1"}, [2]string{"", "2001:db8:9::1"})
	if err != nil {
		return err
	}
	err = s.routeBy(s.Director.Host, [2]string{"", "10.8.0.1"}, [2]string{"", "2001:db8:8::1"})
	if err != nil {
		return err
	}
	err = s.routeBy(s.Router.Host, [2]string{"10.0.0.1/32", "10.8.0.2"}, [2]string{"2001:db8::1/128", "2001:db8:8::2"})
	if err != nil {
		return err
	}
	if !apart {
		return s.routeBy(s.Server, [2]string{"", "192.168.1.254"}, [2]string{"", "2001:db8:1::254"})
	}
	err = s.routeBy(s.Router.Host,
		[2]string{"192.168.1.0/24", "10.8.0.2"}, [2]string{"2001:db8:1::/64", "2001:db8:8::2"})
	if err != nil {
		return err
	}
	return s.routeBy(s.Server, [2]string{"", "192.168.2.254"}, [2]string{"", "2001:db8:2::254"})
}

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
	s := &S3c{Network: New(Options{})}
	for _, step := range []func() error{
		s.addHosts,
		s.layCables,
		s.addSecond,
		s.addDefaults,
		func() error { return s.WaitReady(ctx) },
	} {
		if err := step(); err != nil {
			return nil, s.closeAfter("build network s3c", err)
		}
	}
	return s, nil
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

func (s *S3c) addHosts() error {
	err := s.makeHosts(newHost{&s.Server, "server"}, newHost{&s.Client, "client"})
	if err != nil {
		return err
	}
	for i, name := range []string{"director1", "director2"} {
		if s.Directors[i], err = s.Router(name, AnySource); err != nil {
			return err
		}
		virtual := []netip.Prefix{}
		for _, f := range s.Families() {
			a := s.Virtual(i, f)
			virtual = append(virtual, netip.PrefixFrom(a, a.BitLen()))
		}
		if err := s.Directors[i].addToLoopback(virtual...); err != nil {
			return err
		}
	}
	return nil
}

func (s *S3c) layCables() error {
	inside, err := s.Switch("inside")
	if err != nil {
		return err
	}
	err = inside.plug(
		end{&s.ServerEth0, s.Server, "eth0", "192.168.1.2/24", "2001:db8:1::2/64"},
		end{&s.DirectorEth0[0], s.Directors[0].Host, "eth0", "192.168.1.1/24", "2001:db8:1::1/64"},
		end{&s.DirectorEth0[1], s.Directors[1].Host, "eth0", "192.168.2.1/24", "2001:db8:2::1/64"})
	if err != nil {
		return err
	}
	outside, err := s.Switch("outside")
	if err != nil {
		return err
	}
	return outside.plug(
		end{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, s.Directors[0].Host, "eth1", "10.9.0.1/24", "2001:db8:9::1/64"},
		end{nil, s.Directors[1].Host, "eth1", "10.9.0.2/24", "2001:db8:9::2/64"})
}

// addSecond gives the server its addresses in director 2's network.
func (s *S3c) addSecond() error {
	for _, address := range s.addresses("192.168.2.2/24", "2001:db8:2::2/64") {
		if err := s.ServerEth0.AddAddress(address); err != nil {
			return err
		}
	}
	return nil
}

func (s *S3c) addDefaults() error {
	err := s.routeBy(s.Server, [2]string{"", "192.168.1.1"}, [2]string{"", "2001:db8:1::1"})
	if err != nil {
		return err
	}
	return s.routeBy(s.Client,
		[2]string{"10.0.1.1/32", "10.9.0.1"}, [2]string{"2001:db8:101::1/128", "2001:db8:9::1"},
		[2]string{"10.0.2.1/32", "10.9.0.2"}, [2]string{"2001:db8:102::1/128", "2001:db8:9::2"})
}
