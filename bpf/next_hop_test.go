// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"replypath/bpf"
)

const (
	auto        = bpf.DatapathNextHopModeNEXT_HOP_AUTO
	gatewayOnly = bpf.DatapathNextHopModeNEXT_HOP_GATEWAY
	lastHop     = bpf.DatapathNextHopModeNEXT_HOP_LAST
)

// A second router beside the interface's first one, and a neighbour that is none.
var (
	secondRouter = net.HardwareAddr{2, 0, 0, 0, 1, 0x22}
	neighbour    = net.HardwareAddr{2, 0, 0, 0, 1, 0x99}
)

const secondGateway = 40 // index of the second router

// setGateways gives the interface this many gateways of a family: none, its router, or its router and a second one.
func (b *bed) setGateways(i nic, n network, mode bpf.DatapathNextHopMode, count uint8) {
	b.t.Helper()
	b.manage(i, func(r *bpf.DatapathInterface) {
		r.NextHop = uint8(mode)
		// The other family's must not be taken for this one's.
		r.Gateways4, r.Gateways6, r.Gateway4, r.Gateway6 = 1, 1, 50, 50
		only := either(count == 1, i.gateway(n.family), uint16(0))
		if n.family == 4 {
			r.Gateways4, r.Gateway4 = count, only
		} else {
			r.Gateways6, r.Gateway6 = count, only
		}
	})
	key := bpf.DatapathGatewayMac{Ifindex: i.Index, Mac: [6]uint8(i.router), Family: n.family}
	if count == 0 {
		b.must(b.GatewayMacs.Delete(key))
	}
	if count == 2 {
		b.addGateway(i, n, secondGateway, secondRouter)
	}
}

// TestNextHopChoice: what an inbound frame says about the way back, for every mode, number of known gateways, sender
// and kind of peer.
func TestNextHopChoice(t *testing.T) {
	type way struct {
		gateway int // 0 none, 1 the interface's router, 2 the second one
		flags   uint16
	}
	inboundMAC := way{}
	for _, test := range []struct {
		mode   bpf.DatapathNextHopMode
		count  uint8
		onLink bool
		from   net.HardwareAddr // nil: the interface's router
		want   way
	}{
		{auto, 0, false, nil, inboundMAC},
		{auto, 0, true, nil, inboundMAC},
		{auto, 1, false, nil, way{1, flagGateway}},
		{auto, 1, false, neighbour, way{1, flagGateway}},
		{auto, 1, true, nil, inboundMAC},
		{auto, 1, true, neighbour, inboundMAC},
		{auto, 2, false, nil, way{1, flagGateway | flagEnforceMAC}},
		{auto, 2, false, secondRouter, way{2, flagGateway | flagEnforceMAC}},
		{auto, 2, false, neighbour, inboundMAC},
		{auto, 2, true, nil, inboundMAC},
		{auto, 2, true, secondRouter, inboundMAC},
		{gatewayOnly, 0, false, nil, way{0, flagGateway}},
		{gatewayOnly, 1, false, nil, way{1, flagGateway}},
		{gatewayOnly, 1, false, neighbour, way{1, flagGateway}},
		{gatewayOnly, 1, true, neighbour, way{1, flagGateway}},
		{gatewayOnly, 2, false, nil, way{1, flagGateway}},
		{gatewayOnly, 2, false, secondRouter, way{2, flagGateway}},
		{gatewayOnly, 2, false, neighbour, way{0, flagGateway}},
		{lastHop, 0, false, nil, way{0, flagEnforceMAC}},
		{lastHop, 1, false, nil, way{0, flagEnforceMAC}},
		{lastHop, 1, true, neighbour, way{0, flagEnforceMAC}},
		{lastHop, 2, false, secondRouter, way{0, flagEnforceMAC}},
	} {
		name := fmt.Sprintf("mode %d, %d gateways, on link %v, from %s", test.mode, test.count, test.onLink, test.from)
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.setGateways(b.replication, n, test.mode, test.count)
			if test.onLink {
				b.must(b.SetOnLink(b.replication.Index, netip.PrefixFrom(n.peer, n.peer.BitLen()-8).Masked()))
			}
			via := b.replication
			if test.from != nil {
				via.router = test.from
			}
			gateways := []uint16{0, b.replication.gateway(n.family), secondGateway}
			b.beginsBy(n, via, gateways[test.want.gateway], test.want.flags)
		})
	}
}

// beginsBy has a flow begin whose way back is by this gateway, with these flags.
func (b *bed) beginsBy(n network, via nic, gateway, flags uint16) {
	b.t.Helper()
	born := b.born(n, udp{}, via)
	born.Gateway, born.Flags = gateway, flags|flagNoSocket
	want := effect{events: once(eventAdmittedConnectionless), tables: connectionlessFlow(born)}
	b.run(ingress(via, n.in(via, udp{})), want)
}
