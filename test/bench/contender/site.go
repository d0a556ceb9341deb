// SPDX-License-Identifier: Apache-2.0

// Package contender has the network that the benchmark runs in, and the ways in
// which its host can be made to answer by the interface that it was asked on.
package contender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// Site is one network: as few hops as there can be, so that what a contender costs
// is not hidden behind what routers cost.
//
//	                      ┌─ eth0 10.1.0.1 ── eth0 10.1.0.100 ┐
//	client 10.128.0.0/10 ─┤                                   server ─ eth2 ─ inner 10.8.0.100
//	                      └─ eth1 10.2.0.1 ── eth1 10.2.0.100 ┘
//
// The server's default route is by eth0; the client asks 10.2.0.100. It has every
// address of 10.128.0.0/10 and takes answers by either interface. With IPv6 there are
// other addresses in the same places.
type Site struct {
	*topology.Network
	Addresses
	Client, Server *topology.Host
	// Eth0 and Eth1 are the server's.
	Eth0, Eth1 *topology.Interface
	// Device is what the server's sockets have to be bound to; "" is none.
	Device string
	// Inner is a host behind the server, which forwards to it; nil without Forward.
	Inner *topology.Host
}

// SiteOptions are the variants of a site.
type SiteOptions struct {
	IPv6    bool // in the place of IPv4
	Forward bool // the server is a router too, for IPv4
}

// CongestionControl is that of TCP in every run: the one that every kernel has, and lets every namespace choose.
const CongestionControl = "reno"

// InnerHost is the address of the host behind the server.
var InnerHost = netip.MustParseAddr("10.8.0.100")

// NewSite builds a network and waits until it is ready. Close takes it down.
func NewSite(ctx context.Context, options SiteOptions) (*Site, error) {
	s := &Site{Network: topology.New(topology.Options{NoIPv6: !options.IPv6}), Addresses: IPv4}
	if options.IPv6 {
		s.Addresses = IPv6
	}
	for _, step := range []func() error{
		s.addHosts,
		s.layCables,
		s.addRoutes,
		func() error { return s.addInner(options.Forward) },
		func() error { return s.WaitReady(ctx) },
		func() error { return s.resolve(ctx) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("build the benchmark's network: %w", err), s.Close())
		}
	}
	return s, nil
}

func (s *Site) addHosts() (err error) {
	if s.Client, err = s.Host("client"); err != nil {
		return err
	}
	if s.Server, err = s.Host("server"); err != nil {
		return err
	}
	// Not what the machine around has chosen: some pace what they send.
	for _, host := range []*topology.Host{s.Client, s.Server} {
		if err := host.SetSysctl("net/ipv4/tcp_congestion_control", CongestionControl); err != nil {
			return err
		}
	}
	return nil
}

func (s *Site) layCables() (err error) {
	if s.Eth0, err = s.lay("eth0", s.production, s.Neighbour); err != nil {
		return err
	}
	s.Eth1, err = s.lay("eth1", s.Self, s.gateway)
	return err
}

func (s *Site) lay(name string, server, client netip.Addr) (*topology.Interface, error) {
	i, _, err := s.Connect(
		topology.NIC{Host: s.Server, Name: name, Addresses: []netip.Prefix{netip.PrefixFrom(server, s.network)}},
		topology.NIC{Host: s.Client, Name: name, Addresses: []netip.Prefix{netip.PrefixFrom(client, s.network)}})
	return i, err
}

func (s *Site) addRoutes() error {
	local := netlink.Route{
		Dst:  &net.IPNet{IP: s.clients.Addr().AsSlice(), Mask: net.CIDRMask(s.clients.Bits(), s.clients.Addr().BitLen())},
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, LinkIndex: 1, // lo
	}
	if err := s.Client.Netlink().RouteAdd(&local); err != nil {
		return fmt.Errorf("give the client its addresses: %w", err)
	}
	toSelf := topology.Route{Destination: netip.PrefixFrom(s.Self, s.Self.BitLen()), Interface: "eth1"}
	if s.Family == topology.IPv4 {
		toSelf.Source = s.Peer
	} else if err := s.Client.SetSysctl("net/ipv6/ip_nonlocal_bind", "1"); err != nil { // a local route is not enough
		return err
	}
	if err := s.Client.AddRoute(toSelf); err != nil {
		return err
	}
	return s.Server.AddDefault(s.Neighbour)
}

// addInner makes the server a router with a host behind it. The client asks that
// host by the server's eth0, which answers go by in any case.
func (s *Site) addInner(wanted bool) (err error) {
	if !wanted {
		return nil
	}
	if s.Inner, err = s.Host("inner"); err != nil {
		return err
	}
	_, _, err = s.Connect(
		topology.NIC{Host: s.Server, Name: "eth2", Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.1/24")}},
		topology.NIC{Host: s.Inner, Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(InnerHost, 24)}})
	if err != nil {
		return err
	}
	if err := s.Server.SetSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if err := s.Inner.AddDefault(netip.MustParseAddr("10.8.0.1")); err != nil {
		return err
	}
	return s.Client.AddRoute(topology.Route{Destination: netip.PrefixFrom(InnerHost, 32), Via: s.production})
}

// resolve has the first packets meet no unresolved neighbour, in either direction.
func (s *Site) resolve(ctx context.Context) error {
	for _, i := range []*topology.Interface{s.Eth0, s.Eth1} {
		if err := i.Resolve(ctx, i.Gateway(s.Family)); err != nil {
			return err
		}
		if err := i.Peer().Resolve(ctx, i.Address(s.Family)); err != nil {
			return err
		}
	}
	return nil
}

// Bytes returns how many the server has sent and received by both interfaces so far, with their headers.
func (s *Site) Bytes() (sent, received uint64, err error) {
	for _, i := range []*topology.Interface{s.Eth0, s.Eth1} {
		link, err := i.Link()
		if err != nil {
			return 0, 0, err
		}
		sent += link.Attrs().Statistics.TxBytes
		received += link.Attrs().Statistics.RxBytes
	}
	return sent, received, nil
}

const (
	// silence is how long nothing is sent until nobody works any more: longer than a server takes from one
	// packet to the next.
	silence = 2 * time.Millisecond
	// settlePatience bounds the wait for it.
	settlePatience = time.Second
)

// Settle waits until the server has sent all that there is, after the client has been halted.
func (s *Site) Settle(ctx context.Context) error {
	before := Sent{}
	for range settlePatience / silence {
		now, err := s.Sent()
		if err != nil || now == before {
			return err
		}
		before = now
		select {
		case <-time.After(silence):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("the server sends on for %s", settlePatience)
}

// Sent counts the packets that the server has sent by each interface so far.
type Sent struct{ Eth0, Eth1 uint64 }

// Sent reads the counters.
func (s *Site) Sent() (sent Sent, err error) {
	for i, count := range map[*topology.Interface]*uint64{s.Eth0: &sent.Eth0, s.Eth1: &sent.Eth1} {
		link, err := i.Link()
		if err != nil {
			return Sent{}, err
		}
		*count = link.Attrs().Statistics.TxPackets
	}
	return sent, nil
}
