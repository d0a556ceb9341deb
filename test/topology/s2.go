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
	s := &S2{Network: New(Options{})}
	for _, step := range []func() error{
		s.addHosts,
		s.layCables,
		s.addDefaults,
		func() error { return s.WaitReady(ctx) },
	} {
		if err := step(); err != nil {
			return nil, s.closeAfter("build network s2", err)
		}
	}
	return s, nil
}

// Virtual returns the balancer's virtual address.
func (s *S2) Virtual(f Family) netip.Addr { return inFamily(f, "10.0.0.1", "2001:db8::1") }

func (s *S2) addHosts() error {
	err := s.makeHosts(newHost{&s.Server, "server"}, newHost{&s.Client, "client"}, newHost{&s.Outside, "outside"})
	if err != nil {
		return err
	}
	if s.Balancer, err = s.Router("balancer", AnySource); err != nil {
		return err
	}
	return s.Balancer.addToLoopback(s.addresses("10.0.0.1/32", "2001:db8::1/128")...)
}

func (s *S2) layCables() error {
	lan, err := s.Switch("lan")
	if err != nil {
		return err
	}
	balancer := s.Balancer.Host
	err = lan.plug(
		end{&s.BalancerEth0, balancer, "eth0", "192.168.1.1/24", "2001:db8:1::1/64"},
		end{&s.ClientEth0, s.Client, "eth0", "192.168.1.55/24", "2001:db8:1::55/64"},
		end{&s.ServerEth0, s.Server, "eth0", "192.168.1.200/24", "2001:db8:1::200/64"})
	if err != nil {
		return err
	}
	return s.join([2]end{
		{&s.OutsideEth0, s.Outside, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		{nil, balancer, "eth1", "10.9.0.1/24", "2001:db8:9::1/64"},
	})
}

func (s *S2) addDefaults() error {
	for _, h := range []*Host{s.Server, s.Client} {
		if err := s.routeBy(h, [2]string{"", "192.168.1.1"}, [2]string{"", "2001:db8:1::1"}); err != nil {
			return err
		}
	}
	return s.routeBy(s.Outside, [2]string{"", "10.9.0.1"}, [2]string{"", "2001:db8:9::1"})
}
