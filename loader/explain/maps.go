// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// programMaps are what the programs know.
type programMaps struct{ *bpf.DatapathMaps }

// interfaceByID returns what the programs know of an interface, nil where it is
// gone or another: as get_interface() in bpf/src/next_hop.h.
func (m programMaps) interfaceByID(id uint32, ifindex uint32) (*bpf.DatapathInterface, error) {
	var entry bpf.DatapathInterface
	if err := m.Interfaces.Lookup(id, &entry); err != nil {
		return nil, fmt.Errorf("read interface %d: %w", id, err)
	}
	if id == 0 || entry.Ifindex != ifindex {
		return nil, nil
	}
	return &entry, nil
}

// interfaceByIndex returns what the programs know of a device, nil where it is
// not managed, and its id: as interface_index() in bpf/src/next_hop.h.
func (m programMaps) interfaceByIndex(ifindex int) (entry *bpf.DatapathInterface, id uint32, err error) {
	low := uint32(ifindex) % m.Managed.MaxEntries()
	if err := m.Managed.Lookup(low, &id); err != nil {
		return nil, 0, fmt.Errorf("read the id of device %d: %w", ifindex, err)
	}
	entry, err = m.interfaceByID(id, uint32(ifindex))
	return entry, id, err
}

// gatewayOf returns the gateway by which replies of a flow go, or would if it were usable:
// as next_hop_mac() in bpf/src/next_hop.h.
func (m programMaps) gatewayOf(f *bpf.DatapathFlow, target *bpf.DatapathInterface) (gateway bpf.DatapathGateway, err error) {
	for _, id := range datapath.GatewaysOf(f, target) {
		gateway, err = m.gateway(id)
		if err != nil || gateway.Usable != 0 && gateway.Ifindex == f.Ifindex {
			break
		}
	}
	return gateway, err
}

func (m programMaps) gateway(id uint16) (gateway bpf.DatapathGateway, err error) {
	if err := m.Gateways.Lookup(uint32(id), &gateway); err != nil {
		return gateway, fmt.Errorf("read gateway %d: %w", id, err)
	}
	return gateway, nil
}

// ownFlags are enum own_flags of an address, 0 where it is not this host's.
func (m programMaps) ownFlags(address netip.Addr) (flags bpf.DatapathOwnFlags, err error) {
	err = m.OwnAddresses.Lookup(bpf.DatapathAddress{Bytes: address.As16()}, &flags)
	if isMissing(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the own addresses: %w", err)
	}
	return flags, nil
}

// takes is what starts flows by an interface beside requests for own addresses.
func (m programMaps) takes(id uint16) (bpf.DatapathTakes, error) {
	var entry bpf.DatapathInterface
	if err := m.Interfaces.Lookup(uint32(id), &entry); err != nil {
		return 0, fmt.Errorf("read interface %d: %w", id, err)
	}
	return bpf.DatapathTakes(entry.Takes), nil
}

// exclusions returns one of the two sets.
func (m programMaps) exclusions(id uint32) ([]bpf.DatapathExclusion, error) {
	var set bpf.DatapathExclusionSet
	if err := m.Exclusions.Lookup(id, &set); err != nil {
		return nil, fmt.Errorf("read the exclusions: %w", err)
	}
	return set.Rule[:min(int(set.Count), len(set.Rule))], nil
}

// onLinkFlags is on_link_flags_of() in bpf/src/address.h, of a flow's peer.
func (m programMaps) onLinkFlags(f *bpf.DatapathFlow) (flags bpf.DatapathOnLinkFlags, err error) {
	key := bpf.DatapathOnLinkKey{PrefixLength: 32 + 128, Ifindex: f.Ifindex, Address: f.Tuple.Peer}
	err = m.OnLink.Lookup(&key, &flags)
	if err != nil && !isMissing(err) {
		return 0, fmt.Errorf("read the networks on the links: %w", err)
	}
	return flags, nil
}

// routedBy returns the gateway that a route names for a flow's peer, and whether any serves it: as is_served() in
// bpf/src/next_hop.h. Where several would do, and where no routes are told, it is the first.
func (m programMaps) routedBy(f *bpf.DatapathFlow, target *bpf.DatapathInterface, first uint16) (gateway uint16, served bool, err error) {
	family, routes := uint32(6), bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6
	if datapath.Address(f.Tuple.Peer).Is4() {
		family, routes = 4, bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4
	}
	if target.Flags&uint8(routes) == 0 {
		return first, true, nil
	}
	var id uint32
	key := bpf.DatapathRouteKey{PrefixLength: 64 + 128, Ifindex: f.Ifindex, Family: family, Address: f.Tuple.Peer}
	if err := m.GatewayRoutes.Lookup(&key, &id); isMissing(err) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, fmt.Errorf("read the routes by the gateways: %w", err)
	}
	return cmp.Or(uint16(id), first), true, nil
}

// gatewayOfSource is gateway_of_source() in bpf/src/originate.h. An own address has an entry only where routes are told.
func (m programMaps) gatewayOfSource(own netip.Addr, first uint16) (uint16, error) {
	var id uint32
	if err := m.SourceGateways.Lookup(bpf.DatapathAddress{Bytes: own.As16()}, &id); isMissing(err) {
		return first, nil
	} else if err != nil {
		return 0, fmt.Errorf("read the gateways of own addresses: %w", err)
	}
	return uint16(id), nil
}

func isMissing(err error) bool { return errors.Is(err, ebpf.ErrKeyNotExist) }
