// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"net"
	"net/netip"
	"slices"

	"replypath/loader/nexthop"
)

// Neighbourhood is who is on the networks of the host.
type Neighbourhood struct {
	Asked      bool // the gateways were, and had the time to answer
	Gateways   []nexthop.Gateway
	Neighbours []Neighbour
}

// Neighbour is an entry of the kernel's neighbour tables.
type Neighbour struct {
	Interface int
	Address   netip.Addr
	MAC       net.HardwareAddr
	Router    bool // it has said so by neighbour discovery
}

// OwnersOfMACs returns whose MAC each is by the neighbour table.
func (b *Neighbourhood) OwnersOfMACs(device int) map[string][]netip.Addr {
	owners := map[string][]netip.Addr{}
	for _, n := range b.Neighbours {
		if n.Interface == device && len(n.MAC) == 6 {
			owners[n.MAC.String()] = append(owners[n.MAC.String()], n.Address)
		}
	}
	return owners
}

// HasGateway tells whether a gateway is known on an interface.
func (b *Neighbourhood) HasGateway(device int) bool {
	return slices.ContainsFunc(b.Gateways, func(g nexthop.Gateway) bool { return g.Interface == device })
}

// isNeighbour tells whether the kernel knows the MAC of an address.
func (b *Neighbourhood) isNeighbour(device int, a netip.Addr) bool {
	return slices.ContainsFunc(b.Neighbours, func(n Neighbour) bool {
		return n.Interface == device && n.Address == a && len(n.MAC) == 6
	})
}

func (b *Neighbourhood) isGateway(device int, a netip.Addr) bool {
	return slices.ContainsFunc(b.Gateways, func(g nexthop.Gateway) bool { return g.Interface == device && g.Address == a })
}
