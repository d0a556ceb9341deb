// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	"replypath/bpf"
)

// GatewaysOf returns the ids of the gateways that replies of a flow go to, the first that is
// usable: its own, and, where only a gateway will do, the only one of its interface if that serves all peers. It
// mirrors next_hop_mac() in bpf/src/path.h.
func GatewaysOf(f *bpf.DatapathFlow, target *bpf.DatapathInterface) []uint16 {
	const byGateway, learnt = bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY, bpf.DatapathFlowFlagsFLOW_WAY
	if bpf.DatapathFlowFlags(f.Flags)&(byGateway|learnt) != byGateway {
		return nil
	}
	ids := []uint16{f.Gateway}
	if target != nil && target.NextHop == uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY) {
		only, asksRoutes := target.Gateway6, bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6
		if Address(f.Tuple.Peer).Is4() {
			only, asksRoutes = target.Gateway4, bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4
		}
		if target.Flags&uint8(asksRoutes) == 0 {
			ids = append(ids, only)
		}
	}
	return slices.DeleteFunc(ids, func(id uint16) bool { return id == 0 })
}
