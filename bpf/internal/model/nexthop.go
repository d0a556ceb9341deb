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
func (m *Model) chooseNextHop(f *Flow, w way) {
	peer := netip.AddrFrom16(f.Tuple.Peer).Unmap()
	gateway, several := m.gatewayOf(peer, w)
	f.Gateway = 0
	switch w.record.NextHop {
	case nextHopLast:
		f.Flags |= flagEnforceMAC
	case nextHopGateway:
		f.Flags |= flagGateway
		f.Gateway = gateway
	default:
		if m.onLink(peer, w) || gateway == 0 {
			return
		}
		f.Flags |= flagGateway
		f.Gateway = gateway
		if several {
			f.Flags |= flagEnforceMAC
		}
	}
}

// gatewayOf is the gateway that a frame came through: matched by MAC where the
// interface has several, the only one where it has one.
func (m *Model) gatewayOf(peer netip.Addr, w way) (index uint16, several bool) {
	count, only := w.record.Gateways4, w.record.Gateway4
	if peer.Is6() {
		count, only = w.record.Gateways6, w.record.Gateway6
	}
	if count < 2 {
		return only, false
	}
	for index, g := range m.Host.Gateways {
		if g.Ifindex == w.ifindex && g.Mac == w.mac && netip.AddrFrom16(g.Address).Unmap().Is4() == peer.Is4() {
			return index, true
		}
	}
	return 0, true
}

func (m *Model) onLink(peer netip.Addr, w way) bool {
	for _, prefix := range m.Host.OnLink[w.ifindex] {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

// nextHop is the MAC that a reply of the flow goes to.
func (m *Model) nextHop(f Flow, record Interface) (MAC, bool) {
	if f.Flags&flagGateway == 0 {
		return f.Mac, true
	}
	if mac, usable := m.usable(f.Gateway, f.Ifindex); usable {
		return mac, true
	}
	if record.NextHop != nextHopGateway {
		return f.Mac, true // in auto the inbound MAC stands in
	}
	// Another may have taken the place of the flow's gateway.
	only := record.Gateway4
	if netip.AddrFrom16(f.Tuple.Peer).Unmap().Is6() {
		only = record.Gateway6
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
