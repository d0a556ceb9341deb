// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
)

// reply is all that decides where a reply of a known flow goes.
type reply struct {
	flow    *bpf.DatapathFlow
	target  *bpf.DatapathInterface // the flow's; nil once it is gone
	gateway bpf.DatapathGateway    // the flow's, or the one that stands in for it; zero for none
	byHand  bpf.DatapathMode
	from    *bpf.DatapathInterface // the kernel's choice; nil where it is not managed
	kernel  int                    // its index; 0 without a route
	last    bool                   // it is the device of the fallback route
	next    *[6]uint8              // the kernel's next hop there; nil where it is not resolved
	viaOurs bool                   // the kernel's next hop is the flow's gateway, whatever its MAC
	bound   int                    // the device that the socket is bound to; 0 for none
	size    int                    // of the IP packet; 0: it fits
}

// decide goes through reply() in bpf/src/reply.h.
func (r *reply) decide() (verdict, reason string) {
	switch {
	case r.kernel == 0:
		return Fallback, reasonNoRoute
	case r.from == nil && !r.last:
		return Fallback, reasonNotManaged
	case r.target != nil && r.target.Lower != 0 && int(r.target.Lower) == r.kernel: // on its way down (macvlan)
		return AlreadyRight, ""
	case int(r.flow.Ifindex) != r.kernel:
		return r.move()
	case r.target == nil || !hasHeader(r.from) || !r.has(bpf.DatapathFlowFlagsFLOW_ENFORCE_MAC) && !r.isForNobody():
		return AlreadyRight, ""
	}
	return r.readdress()
}

// isForNobody tells whether the kernel's next hop is a stand-in of the loader's: see bpf/src/nobody.h.
func (r *reply) isForNobody() bool { return r.next != nil && bpf.IsNobody(r.next[:]) }

func (r *reply) readdress() (verdict, reason string) {
	mac := r.nextHopMAC()
	switch {
	case mac == nil:
		return Fallback, reasonNoNextHop
	case r.next != nil && *mac == *r.next || r.next == nil && r.viaOurs:
		return AlreadyRight, ""
	case !r.isEnforced():
		return Fallback, reasonObserve
	}
	return Corrected, ""
}

// move goes through prepare() in bpf/src/reply.h.
func (r *reply) move() (verdict, reason string) {
	switch {
	case r.target == nil || r.target.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP) == 0:
		return Fallback, reasonLinkDown
	case !r.isEnforced():
		return Fallback, reasonObserve
	case r.isBoundElsewhere():
		return Fallback, reasonBoundDevice
	case hasHeader(r.target) && r.nextHopMAC() == nil:
		return Fallback, reasonNoNextHop
	case r.size > int(r.target.Mtu):
		return Fallback, reasonMTU
	}
	return Corrected, ""
}

// isBoundElsewhere is is_bound_elsewhere() in bpf/src/reply.h, for a packet of the socket's own.
func (r *reply) isBoundElsewhere() bool {
	return r.bound != 0 && r.bound != int(r.target.Ifindex) && r.bound != int(r.target.Vrf)
}

// isEnforced is is_enforced() in bpf/src/reply.h.
func (r *reply) isEnforced() bool {
	configured := config.ModeObserve
	if r.target.Mode == uint8(bpf.DatapathModeMODE_ENFORCE) {
		configured = config.ModeEnforce
	}
	return datapath.ModeInForce(r.byHand, string(configured)) == string(config.ModeEnforce)
}

// nextHopMAC is next_hop_mac() in bpf/src/next_hop.h.
func (r *reply) nextHopMAC() *[6]uint8 {
	if r.usesGateway() {
		return &r.gateway.Mac
	}
	if r.has(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY) &&
		r.target != nil && r.target.NextHop == uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY) {
		return nil
	}
	return &r.flow.Mac
}

// usesGateway tells whether the reply goes to a known gateway.
func (r *reply) usesGateway() bool {
	return r.has(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY) &&
		r.gateway.Usable != 0 && r.gateway.Ifindex == r.flow.Ifindex
}

func (r *reply) has(flag bpf.DatapathFlowFlags) bool { return r.flow.Flags&uint16(flag) != 0 }

func hasHeader(i *bpf.DatapathInterface) bool {
	return i.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER) == 0
}
