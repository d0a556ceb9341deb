// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"net/netip"
)

// Host numbers in the ready-made networks.
const (
	gatewayNumber = 1
	serverNumber  = 100
)

// subnet is the number of a network of the ready-made topologies: K stands for
// 10.K.0.0/24 and 2001:db8:K::/64.
type subnet int

// prefix returns the network's prefix.
func (s subnet) prefix(f Family) netip.Prefix {
	return s.host(f, 0).Masked()
}

// host returns the address of a host, with the length of the prefix. The digits of the number are the same in both
// families.
func (s subnet) host(f Family, number int) netip.Prefix {
	if f == IPv4 {
		return netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", s, number))
	}
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", s, number))
}

// hostAddresses returns the addresses of a host in a subnet, one per family.
func (n *Network) hostAddresses(s subnet, number int) []netip.Prefix {
	var addresses []netip.Prefix
	for _, f := range n.Families() {
		addresses = append(addresses, s.host(f, number))
	}
	return addresses
}

// cable describes a link of a ready-made topology.
type cable struct {
	to **Interface // where the host's interface is stored; nil if nobody needs it
	subnet
	host       *Host
	name       string
	number     int // of the host in the subnet
	router     *Router
	routerName string
	mtu        int
	device     Device // what the host's interface is
}

// lay connects a host with a router, which is the subnet's gateway, and permits new connections from the subnet.
func (b *builder) lay(c cable, offloads Offloads) {
	addresses := b.hostAddresses(c.subnet, c.number)
	host := NIC{Host: c.host, Name: c.name, MTU: c.mtu, Offloads: offloads, Addresses: addresses}
	router := NIC{Host: c.router.Host, Name: c.routerName, MTU: c.mtu, Offloads: offloads, Addresses: b.hostAddresses(c.subnet, gatewayNumber)}
	if c.device != Cable {
		host.Name, host.Addresses = c.name+"nic", nil
	}
	b.do(func() error {
		i, _, err := b.Connect(host, router)
		if err == nil && c.device != Cable {
			i, err = c.device.above(i, c.name, addresses)
		}
		if c.to != nil {
			*c.to = i
		}
		return err
	})
	b.permit(c.router, c.routerName, c.subnet)
}

// permit permits new connections from subnets behind an interface.
func (b *builder) permit(r *Router, name string, subnets ...subnet) {
	var from []netip.Prefix
	for _, s := range subnets {
		for _, f := range b.Families() {
			from = append(from, s.prefix(f))
		}
	}
	b.do(func() error { return r.Permit(name, from...) })
}

// routeVia gives a host a route to each subnet by another's address.
func (b *builder) routeVia(h *Host, via subnet, number int, subnets ...subnet) {
	for _, s := range subnets {
		for _, f := range b.Families() {
			b.do(func() error { return h.AddRoute(Route{Destination: s.prefix(f), Via: via.host(f, number).Addr()}) })
		}
	}
}

// defaultVia gives a host a default route by a subnet's gateway; metric 0 is the kernel's choice.
func (b *builder) defaultVia(h *Host, via subnet, metric int) {
	for _, f := range b.Families() {
		b.do(func() error { return h.AddRoute(Route{Via: via.host(f, gatewayNumber).Addr(), Metric: metric}) })
	}
}

// Server is a host with a production and a replication interface.
type Server struct {
	*Host
	Eth0, Eth1 *Interface
}

// NICs are both interfaces.
func (s *Server) NICs() []*Interface { return []*Interface{s.Eth0, s.Eth1} }

// Gateway returns the router's address on an interface's network, or the zero Addr.
func (i *Interface) Gateway(f Family) netip.Addr {
	if i.peer == nil {
		return netip.Addr{}
	}
	return i.peer.Address(f)
}
