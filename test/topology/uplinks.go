// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

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
	u := &Uplinks{Network: New(Options{})}
	for _, step := range []func() error{
		u.addHosts,
		u.layCables,
		u.addRoutes,
		func() error { return u.WaitReady(ctx) },
		func() error { return u.warm(ctx, true, u.Server.Eth0) },
	} {
		if err := step(); err != nil {
			return nil, u.closeAfter("build network of uplinks", err)
		}
	}
	return u, nil
}

func (u *Uplinks) addHosts() error {
	var err error
	if u.Server, err = u.server("server"); err != nil {
		return err
	}
	if err := u.makeHosts(newHost{&u.Client, "client"}); err != nil {
		return err
	}
	if u.Production, err = u.Router("production", StrictSource); err != nil {
		return err
	}
	for i, name := range []string{"provider1", "provider2"} {
		if u.At[i], err = u.Router(name, StrictSource); err != nil {
			return err
		}
	}
	return nil
}

func (u *Uplinks) layCables() error {
	inside, err := u.Switch("inside")
	if err != nil {
		return err
	}
	outside, err := u.Switch("outside")
	if err != nil {
		return err
	}
	err = inside.plug(
		end{&u.Server.Eth1, u.Server.Host, "eth1", "10.4.0.100/32", "2001:db8:4::100/128"},
		end{&u.Inside[0], u.At[0].Host, "inside", "10.4.0.1/24", "2001:db8:4::1/64"},
		end{&u.Inside[1], u.At[1].Host, "inside", "10.5.0.1/24", "2001:db8:5::1/64"})
	if err != nil {
		return err
	}
	for _, second := range u.addresses("10.5.0.100/32", "2001:db8:5::100/128") {
		if err := u.Server.Eth1.AddAddress(second); err != nil {
			return err
		}
		u.Server.Eth1.Addresses = append(u.Server.Eth1.Addresses, second)
	}
	err = outside.plug(
		end{&u.ClientEth0, u.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, u.At[0].Host, "outside", "10.9.0.1/24", "2001:db8:9::1/64"},
		end{nil, u.At[1].Host, "outside", "10.9.0.2/24", "2001:db8:9::2/64"},
		end{nil, u.Production.Host, "outside", "10.9.0.4/24", "2001:db8:9::4/64"})
	if err != nil {
		return err
	}
	return u.join([2]end{
		{&u.Server.Eth0, u.Server.Host, "eth0", "10.1.0.100/24", "2001:db8:11::100/64"},
		{nil, u.Production.Host, "server", "10.1.0.1/24", "2001:db8:11::1/64"},
	})
}

func (u *Uplinks) addRoutes() error {
	for _, via := range []string{"10.1.0.1", "2001:db8:11::1"} {
		if err := u.Server.AddRoute(Route{Via: netip.MustParseAddr(via), Metric: 100}); err != nil {
			return err
		}
	}
	return u.routeBy(u.Client,
		[2]string{"10.4.0.0/24", "10.9.0.1"}, [2]string{"2001:db8:4::/64", "2001:db8:9::1"},
		[2]string{"10.5.0.0/24", "10.9.0.2"}, [2]string{"2001:db8:5::/64", "2001:db8:9::2"},
		[2]string{"10.1.0.0/24", "10.9.0.4"}, [2]string{"2001:db8:11::/64", "2001:db8:9::4"})
}
