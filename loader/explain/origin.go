// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"replypath/bpf"
)

const onLink = uint16(bpf.DatapathFlowFlagsFLOW_ON_LINK)

// seesDevice tells whether a program of ours sees what the kernel sends by a device.
func (h *Host) seesDevice(device int) (bool, error) {
	if device == 0 || device == h.fallback {
		return device != 0, nil
	}
	managed, _, err := h.maps.interfaceByIndex(device)
	return managed != nil, err
}

// sourceInterface returns what the programs know of the interface that alone has the own address, and its id; nil
// where there is none.
func (h *Host) sourceInterface(q *Question) (*bpf.DatapathInterface, uint16, error) {
	flags, err := h.maps.ownFlags(q.Self.Addr())
	id := uint16(flags >> bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT)
	if err != nil || id == 0 {
		return nil, 0, err
	}
	var entry bpf.DatapathInterface
	if err := h.maps.Interfaces.Lookup(uint32(id), &entry); err != nil {
		return nil, 0, fmt.Errorf("read interface %d: %w", id, err)
	}
	if entry.Ifindex == 0 {
		return nil, 0, nil
	}
	return &entry, id, nil
}

// setSourceNextHop sets the next hop by the interface of a source: as choose_gateway() in bpf/src/originate.h. It returns
// false where none is known.
func (h *Host) setSourceNextHop(q *Question, target *bpf.DatapathInterface, raw *bpf.DatapathFlow) (bool, error) {
	if !hasHeader(target) {
		return true, nil
	}
	flags, err := h.maps.onLinkFlags(raw)
	if err != nil {
		return false, err
	}
	if flags&bpf.DatapathOnLinkFlagsON_LINK_ROUTED != 0 {
		raw.Flags = onLink
		mac, err := h.kernel.neighbour(int(target.Ifindex), q.Peer.Addr())
		if mac != nil {
			raw.Mac = *mac
		}
		return true, err
	}
	first := target.FirstGateway4
	if q.Peer.Addr().Is6() {
		first = target.FirstGateway6
	}
	if first, err = h.maps.gatewayOfSource(q.Self.Addr(), first); err != nil {
		return false, err
	}
	id, served, err := h.maps.routedBy(raw, target, first)
	if err != nil || !served || id == 0 {
		return false, err
	}
	raw.Gateway, raw.Flags = id, uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	return true, nil
}
