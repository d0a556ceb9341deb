// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

// S6 is a host with two uplinks to one provider, and a network of its own
// behind it:
//
//	                                     ┌─ 203.0.113.65  ── eth0 203.0.113.66/30
//	client 10.9.0.100 ── .1 provider ────┤                                        host eth2 10.5.0.1 ── 10.5.0.100 inside
//	                                     └─ 203.0.113.233 ── eth1 203.0.113.234/30
//
// IPv6 has 2001:db8:65::2/64 for eth0, 2001:db8:233::2/64 for eth1, with the
// provider at ::1, and 2001:db8:9::100 and 2001:db8:5::100 for the others.
//
// The default route of the host is by eth1. The provider checks sources
// strictly and has no route to 10.5.0.0/24: the host has to translate what
// comes from inside, which is left to the caller, as is forwarding.
type S6 struct {
	*Network
	// Server is the host with the two uplinks.
	Server         *Server
	Provider       *Router
	Client, Inside *Host
	ClientEth0     *Interface
	InsideEth0     *Interface
}

// NewS6 builds the network and waits until it is ready.
func NewS6(ctx context.Context) (*S6, error) {
	s := &S6{Network: New(Options{})}
	for _, step := range []func() error{
		s.addHosts,
		s.layCables,
		s.addDefaults,
		func() error { return s.WaitReady(ctx) },
		func() error { return s.warm(ctx, true, s.Server.Eth0, s.Server.Eth1) },
	} {
		if err := step(); err != nil {
			return nil, s.closeAfter("build network s6", err)
		}
	}
	return s, nil
}

// ClientAddresses are all of the client's of a family, the first of which is its interface's.
func (s *S6) ClientAddresses(f Family) []netip.Addr {
	addresses := []netip.Addr{s.ClientEth0.Address(f)}
	for range s6MoreAddresses {
		addresses = append(addresses, addresses[len(addresses)-1].Next())
	}
	return addresses
}

// s6MoreAddresses are so many that a choice by a hash of the addresses cannot send all of them one way by chance.
const s6MoreAddresses = 15

func (s *S6) addHosts() error {
	var err error
	if s.Server, err = s.server("host"); err != nil {
		return err
	}
	err = s.makeHosts(newHost{&s.Client, "client"}, newHost{&s.Inside, "inside"})
	if err != nil {
		return err
	}
	s.Provider, err = s.Router("provider", StrictSource)
	return err
}

func (s *S6) layCables() error {
	host, provider := s.Server.Host, s.Provider.Host
	err := s.join(
		[2]end{
			{&s.Server.Eth0, host, "eth0", "203.0.113.66/30", "2001:db8:65::2/64"},
			{nil, provider, "uplink0", "203.0.113.65/30", "2001:db8:65::1/64"},
		},
		[2]end{
			{&s.Server.Eth1, host, "eth1", "203.0.113.234/30", "2001:db8:233::2/64"},
			{nil, provider, "uplink1", "203.0.113.233/30", "2001:db8:233::1/64"},
		},
		[2]end{
			{nil, host, "eth2", "10.5.0.1/24", "2001:db8:5::1/64"},
			{&s.InsideEth0, s.Inside, "eth0", "10.5.0.100/24", "2001:db8:5::100/64"},
		},
		[2]end{
			{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
			{nil, provider, "client", "10.9.0.1/24", "2001:db8:9::1/64"},
		})
	if err != nil {
		return err
	}
	for _, f := range s.Families() {
		for _, a := range s.ClientAddresses(f)[1:] {
			if err := s.ClientEth0.AddAddress(netip.PrefixFrom(a, a.BitLen())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *S6) addDefaults() error {
	err := s.routeBy(s.Server.Host, [2]string{"", "203.0.113.233"}, [2]string{"", "2001:db8:233::1"})
	if err != nil {
		return err
	}
	err = s.routeBy(s.Client, [2]string{"", "10.9.0.1"}, [2]string{"", "2001:db8:9::1"})
	if err != nil {
		return err
	}
	return s.routeBy(s.Inside, [2]string{"", "10.5.0.1"}, [2]string{"", "2001:db8:5::1"})
}
