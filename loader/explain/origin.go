// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// concludeBySource concludes where a packet goes that belongs to no flow, if the strong host model has its source
// decide that: as originate() in bpf/src/originate.h. It returns false where the source decides nothing.
func (h *Host) concludeBySource(q *Question, way kernelWay, e *Explanation) (bool, error) {
	target, id, err := h.sourceInterface(q)
	if err != nil || target == nil || target.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG) == 0 ||
		int(target.Ifindex) == way.device || target.Lower != 0 && int(target.Lower) == way.device {
		return false, err
	}
	if sees, err := h.seesDevice(way.device); !sees || err != nil {
		return false, err
	}
	var protocol uint8
	if q.Protocol != nil {
		protocol = *q.Protocol
	}
	raw := bpf.DatapathFlow{Tuple: q.tuple(protocol), Ifindex: target.Ifindex, Interface: id}
	link, err := h.kernel.LinkByIndex(int(target.Ifindex))
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		e.conclude(Fallback, reasonLinkDown)
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("find the interface of %s: %w", q.Self.Addr(), err)
	}
	e.Replypath.Interface = &link.Attrs().Name
	found, err := h.sourceNextHop(q, target, &raw, &e.Replypath)
	if err != nil {
		return false, err
	}
	r := &reply{flow: &raw, byHand: h.byHand, size: q.Size, kernel: way.device, bound: way.bound}
	if r.target, err = h.targetOf(&raw); err != nil {
		return false, err
	}
	verdict, reason := r.move()
	switch {
	case !found && r.target != nil && !r.isEnforced(): // who observes has nobody asked
		verdict, reason = Fallback, reasonObserve
	case !found:
		verdict, reason = Fallback, reasonNoNextHop
	case verdict == Corrected:
		verdict = StrongHost
	}
	e.conclude(verdict, reason)
	return true, nil
}

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

// sourceNextHop tells where a packet goes by the interface of its source: as choose_gateway() in bpf/src/originate.h. It
// returns false where no gateway is usable.
func (h *Host) sourceNextHop(q *Question, target *bpf.DatapathInterface, raw *bpf.DatapathFlow, to *Way) (bool, error) {
	if !hasHeader(target) {
		return true, nil
	}
	onLink, err := h.maps.onLinkFlags(raw)
	if err != nil {
		return false, err
	}
	if onLink&bpf.DatapathOnLinkFlagsON_LINK_ROUTED != 0 {
		mac, err := h.kernel.neighbour(int(target.Ifindex), q.Peer.Addr())
		if mac != nil {
			to.NextHopMAC = new(net.HardwareAddr(mac[:]).String())
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
	if err != nil || !served {
		return false, err
	}
	gateway, err := h.maps.gateway(id)
	if err != nil || id == 0 || gateway.Usable == 0 || gateway.Ifindex != target.Ifindex {
		return false, err
	}
	to.Gateway = new(datapath.Address(gateway.Address).String())
	to.NextHopMAC = new(net.HardwareAddr(gateway.Mac[:]).String())
	return true, nil
}
