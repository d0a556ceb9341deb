// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"replypath/loader/nexthop"
)

// Neighbourhood is who is on the networks of the host.
type Neighbourhood struct {
	Gateways    []nexthop.Gateway
	Neighbours  []Neighbour
	NeighTables map[int]NeighTable // by family: unix.AF_INET, unix.AF_INET6
}

// Neighbour is an entry of the kernel's neighbour tables.
type Neighbour struct {
	Interface int
	Address   netip.Addr
	MAC       net.HardwareAddr
	Counted   bool // against gc_thresh
	Router    bool // it has said so by neighbour discovery
}

// NeighTable is what the kernel tells of the size of a neighbour table, which all
// network namespaces share.
type NeighTable struct {
	Thresh2, Thresh3 int
	Fulls            uint64 // how often it had no room, since the host started
}

// CountNeighbours counts those that need room in the table of a family.
func (b *Neighbourhood) CountNeighbours(family int) int {
	count := 0
	for _, n := range b.Neighbours {
		if n.Counted && n.Address.Is4() == (family == unix.AF_INET) {
			count++
		}
	}
	return count
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
