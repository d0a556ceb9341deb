// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

// S9 is a cloud: an instance with two elastic interfaces, and another one like it.
// The fabric is the router at the other end of each cable, it answers every ARP
// request, and it drops what has not an address of the interface as source:
//
//	                             ┌── eth0 10.0.1.10, 10.0.1.11 ┐
//	                             │                             ├ instance
//	client 10.9.0.100 ── fabric ─┼── eth1 10.0.2.20, 10.0.2.21 ┘
//	                             ├── eth0 10.0.1.30 ┐
//	                             └── eth1 10.0.2.40 ┴ other
//
// In one subnet eth1 has 10.0.1.20, 10.0.1.21 and 10.0.1.40. IPv6 has the same digits
// in 2001:db8:1::/64 and 2001:db8:2::/64, as addresses without a prefix, and fe80::1
// for the fabric, as clouds have it. The default routes of both instances are by eth0.
type S9 struct {
	*Network
	Instance, Other *Server
	Fabric          *Router
	Client          *Host
	ClientEth0      *Interface

	second string // the third number of eth1's addresses
}

// NewS9 builds the network with eth1 in a subnet of its own, and waits until it is ready.
func NewS9(ctx context.Context) (*S9, error) { return newS9(ctx, "2") }

// NewS9OneSubnet is NewS9 with both interfaces in one subnet.
func NewS9OneSubnet(ctx context.Context) (*S9, error) { return newS9(ctx, "1") }

func newS9(ctx context.Context, second string) (*S9, error) {
	b := newBuilder(Options{})
	s := &S9{Network: b.Network, Instance: b.server("instance"), Other: b.server("other"), second: second}
	s.Client, s.Fabric = b.host("client"), b.router("fabric", StrictSource)
	b.do(func() error { return s.Fabric.SetSysctl("net/ipv4/conf/all/proxy_arp", "1") })
	for _, c := range []struct {
		to      **Interface
		host    *Host
		name    string
		subnet  string
		numbers []string
	}{
		{&s.Instance.Eth0, s.Instance.Host, "eth0", "1", []string{"10", "11"}},
		{&s.Instance.Eth1, s.Instance.Host, "eth1", second, []string{"20", "21"}},
		{&s.Other.Eth0, s.Other.Host, "eth0", "1", []string{"30"}},
		{&s.Other.Eth1, s.Other.Host, "eth1", second, []string{"40"}},
	} {
		nic := NIC{Host: c.host, Name: c.name}
		for _, n := range c.numbers {
			nic.Addresses = append(nic.Addresses, s.addresses("10.0."+c.subnet+"."+n+"/24", "2001:db8:"+c.subnet+"::"+n+"/128")...)
		}
		b.do(func() error { return s.attach(c.to, nic, s.addresses("10.0."+c.subnet+".1/32", "fe80::1/64")) })
	}
	b.join(
		end{&s.ClientEth0, s.Client, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, s.Fabric.Host, "client", "10.9.0.1/24", "2001:db8:9::1/64"})
	b.do(func() error { return s.AddDefaults(s.Instance) })
	b.do(func() error { return s.AddDefaults(s.Other) })
	b.routes(s.Client, "10.9.0.1", "2001:db8:9::1")
	return s, b.finish(ctx, "s9", &s.Instance.Eth0, &s.Other.Eth0)
}

// attach joins an instance's interface to the fabric, which has these addresses there.
func (s *S9) attach(to **Interface, nic NIC, fabric []netip.Prefix) (err error) {
	*to, _, err = s.Connect(nic, NIC{Host: s.Fabric.Host, Name: nic.Host.Name + "-" + nic.Name, Addresses: fabric})
	if err != nil {
		return err
	}
	if err := s.Fabric.SetSysctl("net/ipv4/neigh/"+(*to).Peer().Name+"/proxy_delay", "0"); err != nil {
		return err
	}
	for _, a := range nic.Addresses {
		if err := s.Assign(a.Addr(), *to); err != nil {
			return err
		}
	}
	return nil
}

// AddDefaults gives an instance its default routes.
func (s *S9) AddDefaults(instance *Server) error {
	for _, f := range s.Families() {
		if err := instance.AddRoute(Route{Via: instance.Eth0.Gateway(f), Interface: "eth0"}); err != nil {
			return err
		}
	}
	return nil
}

// Assign has the fabric take an address for that of an instance's interface, and of no other.
func (s *S9) Assign(address netip.Addr, to *Interface) error {
	route, err := s.Fabric.route(Route{Destination: netip.PrefixFrom(address, address.BitLen()), Interface: to.Peer().Name})
	if err == nil {
		err = s.Fabric.handle.RouteReplace(route)
	}
	return s.Fabric.named(err, "assign %s to %s", address, to.Name)
}

// Floating is an address of eth1's subnet that no interface has.
func (s *S9) Floating(f Family) netip.Addr {
	return inFamily(f, "10.0."+s.second+".50", "2001:db8:"+s.second+"::50")
}
