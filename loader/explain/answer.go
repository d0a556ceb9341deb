// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/flows"
)

// explainFlow tells where a reply of a flow goes.
func (h *Host) explainFlow(asked *Question, entry *flows.Entry) (Explanation, error) {
	q := asked.of(entry)
	e := newExplanation(&q)
	e.Flow, e.Replypath = &entry.Flow, wayOf(&entry.Flow)
	way, err := h.kernelWay(&q, int(entry.Raw.Ifindex), &e.Kernel)
	if err != nil {
		return e, err
	}
	verdict, reason, err := h.decide(&q, entry, &way, &e)
	e.conclude(verdict, reason)
	e.addSeen(entry.Left)
	if in := entry.Interface; q.Interface != "" && (in == nil || *in != q.Interface) {
		e.Detail += fmt.Sprintf("; the flow arrived by %s, not by %s", orUnknown(in), q.Interface)
	}
	return e, err
}

// decide tells what becomes of a packet that belongs to a flow.
func (h *Host) decide(q *Question, entry *flows.Entry, way *kernelWay, e *Explanation) (verdict, reason string, err error) {
	if isUntaken(&entry.Raw) {
		if verdict, _, err := h.why(q, 0, false); verdict == LocalOrigin || err != nil {
			return verdict, "", err
		}
	}
	flags := uint8(tcpACK)
	if entry.State == flows.StateHalfOpen {
		flags |= tcpSYN
	}
	if err := h.programs.Set(entry.Raw.Tuple, true); err != nil {
		return "", "", err
	}
	verdict, reason, _, err = h.reply(q, entry.Raw.Tuple.Protocol, flags, way, e)
	return cmp.Or(verdict, NoFlow), reason, err // it may have ended meanwhile
}

// isUntaken tells of a flow whose datagrams nobody took: what is sent by its tuple may be a conversation of the host's own.
// A test run gives packets no socket by which the programs could tell.
func isUntaken(f *bpf.DatapathFlow) bool {
	return f.Tuple.Protocol == unix.IPPROTO_UDP && f.Flags&uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET) != 0 &&
		f.State&uint8(bpf.DatapathFlowStateFLOW_REPLIED) == 0
}

// wayOf is where the programs take a flow to belong.
func wayOf(f *flows.Flow) Way { return Way{f.Interface, f.NextHopMAC, f.Gateway} }

// explainWithout tells where a packet goes that belongs to no flow, and why it belongs to none, or where the reply would go
// if its question came in by a device.
func (h *Host) explainWithout(q *Question, device int) (Explanation, error) {
	e := newExplanation(q)
	verdict, reason, err := h.WhyNoFlow(q, device)
	if err != nil {
		return e, err
	}
	if device != 0 && verdict == NoFlow && reason == "" {
		if slices.Contains(h.recording, device) {
			return e, h.suppose(q, device, &e)
		}
		reason = reasonUnmanaged
	}
	way, err := h.kernelWay(q, 0, &e.Kernel)
	if err != nil {
		return e, err
	}
	protocol := q.protocols()[0]
	if h.sees(&way) {
		if err := h.programs.Set(q.tuple(protocol), true); err != nil {
			return e, err
		}
		if decided, err := h.originate(q, protocol, &way, &e); decided || err != nil {
			return e, err
		}
	}
	e.conclude(verdict, reason)
	return e, nil
}

// suppose tells where the reply goes to a question that comes in by a device. Who would send the frame is known where its
// peer is a neighbour.
func (h *Host) suppose(q *Question, device int, e *Explanation) error {
	protocol := q.protocols()[0]
	tuple := q.tuple(protocol)
	mac, err := h.kernel.neighbour(device, q.Peer.Addr())
	if err != nil {
		return err
	}
	if mac == nil {
		mac = unknownMAC
	}
	if err := h.programs.Set(tuple, true); err != nil {
		return err
	}
	event, err := h.in(q, protocol, tcpSYN, device, mac)
	if err != nil {
		return err
	}
	way, err := h.kernelWay(q, device, &e.Kernel)
	if err != nil {
		return err
	}
	if event.Table == noTable {
		e.conclude(refusal(event))
		return nil
	}
	flow, err := h.programs.Recorded(tuple)
	if err != nil {
		return err
	}
	if bpf.IsNobody(flow.Mac[:]) {
		flow.Mac = [6]uint8{}
	}
	entry, err := h.table.Originated(*flow)
	if err != nil {
		return err
	}
	e.Replypath = wayOf(&entry.Flow)
	verdict, reason, _, err := h.reply(q, protocol, tcpSYN|tcpACK, &way, e)
	e.conclude(cmp.Or(verdict, NoFlow), reason)
	e.Detail = fmt.Sprintf("no flow is recorded; if it arrived by %s: %s", q.Interface, e.Detail)
	return err
}

// originate tells where a packet goes that belongs to no flow, if its source decides that.
func (h *Host) originate(q *Question, protocol uint8, way *kernelWay, e *Explanation) (decided bool, err error) {
	verdict, reason, event, err := h.reply(q, protocol, tcpACK, way, e)
	if err != nil || verdict == "" {
		return false, err
	}
	to := event.Path
	flow := bpf.DatapathFlow{
		Tuple: q.tuple(protocol), Ifindex: to.Ifindex, Interface: to.Interface, Gateway: to.Gateway, Mac: to.Mac, Flags: to.Flags,
	}
	if flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_ON_LINK) == 0 {
		flow.Flags |= uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	} else if mac, err := h.kernel.neighbour(int(to.Ifindex), q.Peer.Addr()); mac != nil || err != nil {
		copy(flow.Mac[:], mac)
	}
	entry, err := h.table.Originated(flow)
	if err != nil {
		return false, err
	}
	e.Replypath = wayOf(&entry.Flow)
	e.conclude(verdict, reason)
	e.addSeen(entry.Left)
	return true, nil
}

// reply has the programs decide where a packet goes, and adds what they cannot know: a test run gives it no socket.
func (h *Host) reply(q *Question, protocol, flags uint8, way *kernelWay, e *Explanation) (verdict, reason string, event *bpf.DatapathTraceEvent, err error) {
	if way.device == 0 {
		return Fallback, reasonNoRoute, nil, nil
	}
	if !h.sees(way) {
		return Fallback, reasonNotManaged, nil, nil
	}
	link := way.link.Attrs()
	if event, err = h.programs.Out(q.frame(protocol, true, flags, link.HardwareAddr, way.mac), way.device); err != nil {
		return "", "", nil, err
	}
	verdict, reason = Outcome(event)
	target := cmp.Or(int(event.FlowIfindex), int(event.Path.Ifindex))
	hasHeader := link.EncapType == "ether"
	isOurs := way.mac == nil && e.Kernel.Gateway != nil && e.Replypath.Gateway != nil && *e.Kernel.Gateway == *e.Replypath.Gateway
	isMoved := moves(verdict)
	switch {
	case target == way.device && (!hasHeader || isMoved && isOurs):
		return AlreadyRight, "", event, nil
	case target == 0 || target == way.device:
	case (isMoved || reason == reasonNoNextHop) && h.kernel.isBoundOff(way.bound, target):
		return Fallback, reasonBoundDevice, event, nil
	case isMoved && q.Size != 0:
		other, err := h.kernel.LinkByIndex(target)
		if err == nil && q.Size > other.Attrs().MTU {
			verdict, reason = Fallback, reasonMTU
		}
		return verdict, reason, event, err
	}
	return verdict, reason, event, nil
}

// kernelWay is kernel.way, which has to know whether Self is an address of this host.
func (h *Host) kernelWay(q *Question, received int, to *Kernel) (kernelWay, error) {
	var flags bpf.DatapathOwnFlags
	err := h.table.Maps().OwnAddresses.Lookup(bpf.DatapathAddress{Bytes: q.Self.Addr().As16()}, &flags)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return kernelWay{}, fmt.Errorf("read the own addresses: %w", err)
	}
	return h.kernel.way(q, received, flags != 0, to)
}
