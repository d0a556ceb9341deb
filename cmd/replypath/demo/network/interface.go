// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Family is an IP version.
type Family int

// The two IP versions.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families are both.
var Families = []Family{IPv4, IPv6}

// Numbers of hosts in their subnets.
const (
	gateway      = 1
	otherGateway = 2 // the replication router, between the routers
	server       = 100
)

// Interface is one end of a cable.
type Interface struct {
	Name string
	MAC  net.HardwareAddr
	Peer *Interface // the other end: what it receives has really left this interface

	host           *Host
	subnet, number byte
}

// interfaceIn describes an interface, with a MAC that is readable in a capture.
func (h *Host) interfaceIn(subnet, number byte, name string) *Interface {
	i := &Interface{Name: name, host: h, subnet: subnet, number: number, MAC: net.HardwareAddr{0x02, 0, 0, 0, h.number, h.nics}}
	h.nics++
	return i
}

// Address returns the interface's address.
func (i *Interface) Address(f Family) netip.Addr { return address(f, i.subnet, i.number).Addr() }

// address returns that of a host in a subnet, with the length of the prefix.
func address(f Family, subnet, number byte) netip.Prefix {
	if f == IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, subnet, 0, number}), 24)
	}
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", subnet, number))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// connect makes a cable, and returns when packets for the addresses of both ends are accepted.
func connect(ctx context.Context, i, peer *Interface) error {
	i.Peer, peer.Peer = peer, i
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = i.Name, i.MAC
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerNamespace = peer.Name, peer.MAC, netlink.NsFd(peer.host.net)
	if err := i.host.Do(func() error { return netlink.LinkAdd(pair) }); err != nil {
		return fmt.Errorf("add a pair of interfaces %s, %s: %w", i.Name, peer.Name, err)
	}
	for _, step := range []func(*Interface, context.Context) error{(*Interface).setUp, (*Interface).awaitReady} {
		for _, end := range []*Interface{i, peer} {
			if err := end.host.Do(func() error { return step(end, ctx) }); err != nil {
				return fmt.Errorf("set up %s of %s: %w", end.Name, end.host.name, err)
			}
		}
	}
	return nil
}

// setUp works in the host's namespace, as awaitReady does.
func (i *Interface) setUp(context.Context) error {
	link := named(i.Name)
	err := netlink.LinkSetUp(link)
	for _, f := range Families {
		err = errors.Join(err, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address(f, i.subnet, i.number))}))
	}
	return err
}

// awaitReady waits for the local routes of both IPv6 addresses, the link's own too: the kernel makes them later, in a
// work queue, once there is a carrier.
func (i *Interface) awaitReady(ctx context.Context) error {
	link, err := netlink.LinkByName(i.Name)
	if err != nil {
		return err
	}
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, LinkIndex: link.Attrs().Index, Type: unix.RTN_LOCAL}
	for {
		local, err := netlink.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF|netlink.RT_FILTER_TYPE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list local routes: %w", err)
		}
		if err == nil && len(local) == 2 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// addRoutes adds routes to subnets by an interface of another host, default routes where there are none.
func (h *Host) addRoutes(via *Interface, subnets ...byte) error {
	var routes []*netlink.Route
	for _, f := range Families {
		for _, subnet := range subnets {
			routes = append(routes, &netlink.Route{Dst: ipNet(address(f, subnet, 0).Masked()), Gw: via.Address(f).AsSlice()})
		}
		if len(subnets) == 0 {
			routes = append(routes, &netlink.Route{Gw: via.Address(f).AsSlice()})
		}
	}
	return h.Do(func() error {
		for _, r := range routes {
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("add route %s to %s: %w", r, h.name, err)
			}
		}
		return nil
	})
}
