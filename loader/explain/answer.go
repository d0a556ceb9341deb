// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/flows"
)

// explainFlow tells where a reply of a flow goes.
func (h *Host) explainFlow(asked *Question, entry *flows.Entry) (Explanation, error) {
	q := asked.of(entry)
	e, err := h.explainEntry(&q, entry)
	e.Flow = &entry.Flow
	e.addSeen(entry.Left)
	if in := entry.Interface; q.Interface != "" && (in == nil || *in != q.Interface) {
		e.Detail += fmt.Sprintf("; the flow arrived by %s, not by %s", orUnknown(in), q.Interface)
	}
	return e, err
}

// explainEntry tells where a reply goes to which an entry of the flow table belongs.
func (h *Host) explainEntry(q *Question, entry *flows.Entry) (Explanation, error) {
	raw := &entry.Raw
	r := &reply{flow: raw, byHand: h.byHand, size: q.Size}
	e := newExplanation(q)
	way, err := h.kernelWay(q, int(raw.Ifindex), &e.Kernel)
	if err != nil {
		return e, err
	}
	if !isEcho(raw.Tuple.Protocol) { // the kernel's own socket answers, which is bound to nothing
		r.bound = way.bound
	}
	if r.target, err = h.targetOf(raw); err != nil {
		return e, err
	}
	if r.gateway, err = h.maps.gatewayOf(raw, r.target); err != nil {
		return e, err
	}
	r.kernel, r.next, r.last = way.device, way.mac, way.device != 0 && way.device == h.fallback
	r.viaOurs = r.usesGateway() && way.nextHop == datapath.Address(r.gateway.Address)
	if r.from, _, err = h.maps.interfaceByIndex(way.device); err != nil {
		return e, err
	}
	e.Replypath = r.way(&entry.Flow)
	if ends, err := endsFlow(raw, q); ends || err != nil {
		e.conclude(LocalOrigin, "")
		return e, err
	}
	e.conclude(r.decide())
	return e, nil
}

// way is where the programs take the flow to belong.
func (r *reply) way(flow *flows.Flow) Way {
	w := Way{Interface: flow.Interface, Gateway: flow.Gateway}
	if mac := r.nextHopMAC(); mac != nil && *mac != [6]uint8{} && (r.target == nil || hasHeader(r.target)) {
		w.NextHopMAC = new(net.HardwareAddr(mac[:]).String())
	}
	return w
}

// explainWithout tells where a packet goes that belongs to no flow, and why it
// belongs to none, or where the reply would go if its question came in by a device.
// Who would send the frame is not known.
func (h *Host) explainWithout(q *Question, device int) (Explanation, error) {
	_, id, err := h.maps.interfaceByIndex(device)
	if err != nil {
		return Explanation{}, err
	}
	verdict, reason, err := h.WhyNoFlow(q, uint16(id))
	if err != nil {
		return Explanation{}, err
	}
	if device != 0 && verdict == NoFlow && reason == "" {
		entry, err := h.suppose(q, device)
		if err != nil {
			return Explanation{}, err
		}
		if entry != nil {
			e, err := h.explainEntry(q, entry)
			e.Detail = fmt.Sprintf("no flow is recorded; if it arrived by %s: %s", q.Interface, e.Detail)
			return e, err
		}
		reason = reasonUnmanaged
	}
	e := newExplanation(q)
	way, err := h.kernelWay(q, 0, &e.Kernel)
	if err != nil {
		return e, err
	}
	heeded, err := h.isHeeded(q, verdict)
	if err != nil {
		return e, err
	}
	if heeded {
		if originated, err := h.explainOriginated(q, way.device); originated != nil || err != nil {
			return *cmp.Or(originated, &e), err
		}
	}
	e.conclude(verdict, reason)
	return e, nil
}

// explainOriginated tells where a packet goes that belongs to no flow, if the strong host model has its source decide that,
// or it goes as answers to its peer go; nil for any other: as choose_way() in bpf/src/originate.h. The kernel sends it by
// a device.
func (h *Host) explainOriginated(q *Question, device int) (*Explanation, error) {
	target, id, err := h.sourceInterface(q)
	if err != nil || target == nil || int(target.Ifindex) == device || target.Lower != 0 && int(target.Lower) == device {
		return nil, err
	}
	if sees, err := h.seesDevice(device); !sees || err != nil {
		return nil, err
	}
	raw := bpf.DatapathFlow{Ifindex: target.Ifindex, Interface: id}
	if raw.Tuple = q.tuple(0); q.Protocol != nil {
		raw.Tuple = q.tuple(*q.Protocol)
	}
	isStrong := target.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG) != 0
	known, entry, moved := false, (*flows.Entry)(nil), StrongHost
	if isStrong {
		known, err = h.setSourceNextHop(q, target, &raw)
	}
	if err == nil && !known && (isStrong || h.settings.Related != 0) {
		entry, err = h.table.Related(raw.Tuple)
	}
	switch {
	case err != nil:
		return nil, err
	case entry != nil && entry.Raw.Interface == id:
		moved = Related
	case !isStrong:
		return nil, nil
	default:
		if entry, err = h.table.Entry(raw); err != nil {
			return nil, err
		}
	}
	e, err := h.explainEntry(q, entry)
	hasNextHop := !hasHeader(target) || e.Replypath.NextHopMAC != nil || entry.Raw.Flags&onLink != 0
	switch {
	case err != nil || e.Reason != nil && *e.Reason == reasonObserve: // who observes has nobody asked
	case !hasNextHop:
		e.conclude(Fallback, reasonNoNextHop)
	case e.Verdict == Corrected:
		e.conclude(moved, "")
	}
	e.addSeen(entry.Left)
	return &e, err
}

// kernelWay is kernel.way, which has to know whether Self is an address of this host.
func (h *Host) kernelWay(q *Question, received int, to *Kernel) (kernelWay, error) {
	own, err := h.maps.ownFlags(q.Self.Addr())
	if err != nil {
		return kernelWay{}, err
	}
	return h.kernel.way(q, received, own != 0, to)
}
