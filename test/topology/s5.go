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
	s := &S5{Network: New(Options{})}
	for _, step := range []func() error{
		s.addHosts,
		s.layCables,
		s.addDefaults,
		func() error { return s.WaitReady(ctx) },
	} {
		if err := step(); err != nil {
			return nil, s.closeAfter("build network s5", err)
		}
	}
	return s, nil
}

func (s *S5) addHosts() error {
	var err error
	if s.Server, err = s.server("server"); err != nil {
		return err
	}
	err = s.makeHosts(newHost{&s.Client, "client"}, newHost{&s.Neighbour, "neighbour"})
	if err != nil {
		return err
	}
	if s.Router, err = s.Network.Router("router", AnySource); err != nil {
		return err
	}
	s.Switch, err = s.Network.Switch("switch")
	return err
}

func (s *S5) layCables() error {
	err := s.Switch.plug(
		end{&s.Server.Eth0, s.Server.Host, "eth0", "192.168.16.20/24", "2001:db8:16::20/64"},
		end{&s.Server.Eth1, s.Server.Host, "eth1", "192.168.16.21/24", "2001:db8:16::21/64"},
		end{&s.NeighbourEth0, s.Neighbour, "eth0", "192.168.16.55/24", "2001:db8:16::55/64"},
		end{&s.RouterInside, s.Router.Host, "inside", "192.168.16.1/24", "2001:db8:16::1/64"})
	if err != nil {
		return err
	}
	return s.join([2]end{
		{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		{nil, s.Router.Host, "client", "10.9.0.1/24", "2001:db8:9::1/64"},
	})
}

func (s *S5) addDefaults() error {
	for _, r := range []Route{
		{Via: s.RouterInside.Address(IPv4), Interface: "eth0"},
		{Via: s.RouterInside.Address(IPv6), Interface: "eth0"},
	} {
		if err := s.Server.AddRoute(r); err != nil {
			return err
		}
	}
	return s.routeBy(s.Client, [2]string{"", "10.9.0.1"}, [2]string{"", "2001:db8:9::1"})
}
