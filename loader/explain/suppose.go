// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/flows"
)

// suppose returns the entry that a frame makes which comes in by a device, nil where that is not
// managed, or caught only: as choose_next_hop() in bpf/src/next_hop.h. The MAC is the peer's where that is a
// neighbour, and not known where any router may send the frame.
func (h *Host) suppose(q *Question, device int) (*flows.Entry, error) {
	target, id, err := h.maps.interfaceByIndex(device)
	if target == nil || target.Mode == uint8(bpf.DatapathModeMODE_CONFIGURED) || err != nil {
		return nil, err
	}
	var protocol uint8
	if q.Protocol != nil {
		protocol = *q.Protocol
	}
	entry := &flows.Entry{
		Flow: flows.Flow{Interface: &q.Interface},
		Raw:  bpf.DatapathFlow{Tuple: q.tuple(protocol), Ifindex: uint32(device), Interface: uint16(id)},
	}
	if err := h.maps.supposeGateway(&entry.Raw, target); err != nil {
		return nil, err
	}
	mac, err := h.kernel.neighbour(device, q.Peer.Addr())
	if mac != nil {
		entry.Raw.Mac = *mac
	}
	if err != nil || entry.Raw.Gateway == 0 {
		return entry, err
	}
	gateway, err := h.maps.gateway(entry.Raw.Gateway)
	if err != nil {
		return nil, err
	}
	entry.Flow.Gateway = new(datapath.Address(gateway.Address).String())
	return entry, nil
}

// supposeGateway sets the gateway of a flow, where it is that of every frame.
func (m programMaps) supposeGateway(f *bpf.DatapathFlow, target *bpf.DatapathInterface) error {
	count, gateway, family, routes := target.Gateways6, uint32(target.Gateway6), uint32(6), bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6
	if datapath.Address(f.Tuple.Peer).Is4() {
		count, gateway, family, routes = target.Gateways4, uint32(target.Gateway4), 4, bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4
	}
	onlyGateways := target.NextHop == uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY)
	if target.NextHop == uint8(bpf.DatapathNextHopModeNEXT_HOP_LAST) {
		return nil
	}
	if !onlyGateways {
		onLink, err := m.onLinkFlags(f)
		if count == 0 || onLink != 0 || err != nil {
			return err
		}
	}
	if target.Flags&uint8(routes) != 0 {
		key := bpf.DatapathRouteKey{PrefixLength: 64 + 128, Ifindex: f.Ifindex, Family: family, Address: f.Tuple.Peer}
		gateway = 0
		if err := m.GatewayRoutes.Lookup(&key, &gateway); err != nil && !isMissing(err) {
			return fmt.Errorf("read the routes by the gateways: %w", err)
		}
	}
	if count > 1 && !onlyGateways {
		gateway = 0 // the one that sends the frame
	}
	f.Gateway = uint16(gateway)
	if gateway != 0 || onlyGateways {
		f.Flags = uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	}
	return nil
}
