package explain

import (
	"fmt"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/flows"
)

// reasonUnmanaged is that of a question that would come in by an interface without our programs.
const reasonUnmanaged = "unmanaged"

// nameDevice makes the interface of a question the name that it has now, which may be asked for by
// an alternative one, and returns its index, 0 where no interface is asked about.
func (h *Host) nameDevice(q *Question) (int, error) {
	if q.Interface == "" {
		return 0, nil
	}
	link, err := h.netlink.LinkByName(q.Interface)
	if err != nil {
		return 0, fmt.Errorf("find interface %s (`ip link` shows which there are): %w", q.Interface, err)
	}
	q.Interface = link.Attrs().Name
	return link.Attrs().Index, nil
}

// explainSupposed tells where the reply would go if its question came in by a device: no flow is
// recorded yet. Who would send the frame is not known.
func (h *Host) explainSupposed(q *Question, device int) (Explanation, error) {
	verdict, reason, err := h.WhyNoFlow(q)
	if err != nil {
		return Explanation{}, err
	}
	entry, err := h.suppose(q, device)
	if err != nil {
		return Explanation{}, err
	}
	if entry == nil && verdict == NoFlow && reason == "" {
		reason = reasonUnmanaged
	}
	if entry == nil || verdict != NoFlow || reason != "" {
		return h.explainUnrecorded(q, verdict, reason)
	}
	e, err := h.explainEntry(q, entry)
	e.Detail = fmt.Sprintf("no flow is recorded; if it came in by %s: %s", q.Interface, e.Detail)
	return e, err
}

// suppose returns the entry that a frame makes which comes in by a device, nil where that is not
// managed: as choose_next_hop() in bpf/src/next_hop.h. The MAC is the peer's where that is a
// neighbour, and not known where any router may send the frame.
func (h *Host) suppose(q *Question, device int) (*flows.Entry, error) {
	id, err := h.interfaceID(device)
	if err != nil {
		return nil, err
	}
	target, err := h.interfaceByID(id, uint32(device))
	if target == nil || err != nil {
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
	if err := h.supposeGateway(&entry.Raw, target); err != nil {
		return nil, err
	}
	mac, err := h.neighbour(device, q.Peer.Addr())
	if mac != nil {
		entry.Raw.Mac = *mac
	}
	if err != nil || entry.Raw.Gateway == 0 {
		return entry, err
	}
	var gateway bpf.DatapathGateway
	if err := h.maps.Gateways.Lookup(uint32(entry.Raw.Gateway), &gateway); err != nil {
		return nil, fmt.Errorf("read gateway %d: %w", entry.Raw.Gateway, err)
	}
	entry.Flow.Gateway = new(datapath.Address(gateway.Address).String())
	return entry, nil
}

// supposeGateway sets the gateway of a flow, where it is that of every frame.
func (h *Host) supposeGateway(f *bpf.DatapathFlow, target *bpf.DatapathInterface) error {
	count, gateway, family, routes := target.Gateways6, uint32(target.Gateway6), uint32(6), bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6
	if datapath.Address(f.Tuple.Peer).Is4() {
		count, gateway, family, routes = target.Gateways4, uint32(target.Gateway4), 4, bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4
	}
	onlyGateways := target.NextHop == uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY)
	if target.NextHop == uint8(bpf.DatapathNextHopModeNEXT_HOP_LAST) {
		return nil
	}
	if !onlyGateways {
		onLink, err := h.isOnLink(f)
		if count == 0 || onLink || err != nil {
			return err
		}
	}
	if target.Flags&uint8(routes) != 0 {
		key := bpf.DatapathRouteKey{PrefixLength: 64 + 128, Ifindex: f.Ifindex, Family: family, Address: f.Tuple.Peer}
		gateway = 0
		if err := h.maps.GatewayRoutes.Lookup(&key, &gateway); err != nil && !isMissing(err) {
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

// isOnLink is address_is_on_link() in bpf/src/address.h, of a flow's peer.
func (h *Host) isOnLink(f *bpf.DatapathFlow) (bool, error) {
	key := bpf.DatapathOnLinkKey{PrefixLength: 32 + 128, Ifindex: f.Ifindex, Address: f.Tuple.Peer}
	var value []byte
	err := h.maps.OnLink.Lookup(&key, &value)
	if err != nil && !isMissing(err) {
		return false, fmt.Errorf("read the networks on the links: %w", err)
	}
	return err == nil, nil
}
