// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"replypath/bpf"
)

const (
	nextHopAuto    = uint8(bpf.DatapathNextHopModeNEXT_HOP_AUTO)
	nextHopGateway = uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY)
	nextHopLast    = uint8(bpf.DatapathNextHopModeNEXT_HOP_LAST)
)

// chooseNextHop says where replies go, by the frame that came in (next_hop in
// replypath.yaml(5)).
func (m *Model) chooseNextHop(f *Flow, w path) {
	peer := netip.AddrFrom16(f.Tuple.Peer).Unmap()
	count, only := w.record.Gateways4, w.record.Gateway4
	if peer.Is6() {
		count, only = w.record.Gateways6, w.record.Gateway6
	}
	routed, isServed := m.routed(peer, w, only)
	sender := m.senderOf(peer, w)
	f.Gateway = 0
	switch w.record.NextHop {
	case nextHopLast:
		f.Flags |= flagEnforceMAC
	case nextHopGateway:
		f.Flags |= flagGateway
		f.Gateway = routed
		if sender != 0 && (count > 1 || routed == 0) {
			f.Gateway = sender
		}
	default:
		if m.onLink(peer, w) || count == 0 {
			return
		}
		f.Gateway = sender
		if count == 1 && routed != 0 {
			f.Gateway = routed
		}
		if f.Gateway != 0 {
			f.Flags |= flagGateway
		}
		if !isServed || f.Gateway != 0 && count > 1 {
			f.Flags |= flagEnforceMAC
		}
	}
}

// routed is the gateway to which a peer belongs, 0 where that is not known, and whether any serves it. Where
// no routes are told, only does.
func (m *Model) routed(peer netip.Addr, w path, only uint16) (gateway uint16, isServed bool) {
	if !hasRoutes(w.record, peer) {
		return only, true
	}
	best := -1
	for _, route := range m.Host.Routes[w.ifindex] {
		if route.Prefix.Contains(peer) && route.Prefix.Bits() > best {
			best, gateway, isServed = route.Prefix.Bits(), route.Gateway, true
		}
	}
	return gateway, isServed
}

// hasRoutes tells whether only some peers of a family are served by an interface's gateways.
func hasRoutes(record Interface, peer netip.Addr) bool {
	flag := bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6
	if peer.Is4() {
		flag = bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4
	}
	return record.Flags&uint8(flag) != 0
}

// senderOf is the gateway that a frame came through, matched by MAC, 0 for none.
func (m *Model) senderOf(peer netip.Addr, w path) uint16 {
	for index, g := range m.Host.Gateways {
		if g.Ifindex == w.ifindex && g.Mac == w.mac && netip.AddrFrom16(g.Address).Unmap().Is4() == peer.Is4() {
			return index
		}
	}
	return 0
}

func (m *Model) onLink(peer netip.Addr, w path) bool {
	for _, prefix := range m.Host.OnLink[w.ifindex] {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

// nextHop is the MAC that a reply of the flow goes to.
func (m *Model) nextHop(f Flow, record Interface) (MAC, bool) {
	if f.Flags&(flagGateway|flagLastHop) != flagGateway {
		return f.Mac, true
	}
	if mac, usable := m.usable(f.Gateway, f.Ifindex); usable {
		return mac, true
	}
	if record.NextHop != nextHopGateway {
		return f.Mac, true // in auto the inbound MAC stands in
	}
	// Another may have taken the place of the flow's gateway.
	only, peer := record.Gateway4, netip.AddrFrom16(f.Tuple.Peer).Unmap()
	if peer.Is6() {
		only = record.Gateway6
	}
	if hasRoutes(record, peer) {
		return MAC{}, false // nobody knows whether it serves the peer
	}
	return m.usable(only, f.Ifindex)
}

// usable is the MAC of a gateway of an interface, if it can be used.
func (m *Model) usable(gateway uint16, ifindex uint32) (MAC, bool) {
	g, known := m.Host.Gateways[gateway]
	if !known || gateway == 0 || g.Usable == 0 || g.Ifindex != ifindex {
		return MAC{}, false
	}
	return g.Mac, true
}
