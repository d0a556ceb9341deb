// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/finding"
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
	err = errors.Join(err, h.concludeOf(&e, &entry.Raw, verdict, reason))
	e.addSeen(entry.Left)
	if in := entry.Interface; q.Interface != "" && (in == nil || *in != q.Interface) {
		e.Detail += fmt.Sprintf("; the flow arrived by %s, not by %s", orUnknown(in), q.Interface)
	}
	return e, err
}

// concludeOf is conclude for a flow, which may go by a way that handshakes taught.
func (h *Host) concludeOf(e *Explanation, f *bpf.DatapathFlow, verdict, reason string) error {
	verdict = ByWay(verdict, f.Flags)
	e.conclude(verdict, reason)
	if verdict != LastHop && verdict != DirectReturn {
		return nil
	}
	sender, err := h.table.Sender(f)
	switch {
	case sender == nil && f.Tuple.Protocol != unix.IPPROTO_TCP: // it heeds what is known now, each second
		e.Detail += ", as only lo or a dummy device has the self address"
	case sender == nil:
		e.Detail += ", as its handshake tries that, or found it"
	default:
		e.Detail += ", " + sender.Because()
	}
	return err
}

// ByWay is the verdict of a reply of a flow with these flags, where Outcome does not know what handshakes taught.
func ByWay(verdict string, flags uint16) string {
	switch way := bpf.DatapathFlowFlags(flags) & bpf.DatapathFlowFlagsFLOW_WAY; {
	case verdict == Corrected && way == bpf.DatapathFlowFlagsFLOW_LAST_HOP:
		return LastHop
	case verdict == AlreadyRight && way == bpf.DatapathFlowFlagsFLOW_AS_ROUTED:
		return DirectReturn
	}
	return verdict
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
			err := h.suppose(q, device, &e)
			h.addStranger(q, &e)
			return e, err
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
	h.addStranger(q, &e)
	return e, nil
}

// addStranger says where an address is asked about that the programs do not know as this host's.
func (h *Host) addStranger(q *Question, e *Explanation) {
	self, maps, flags := q.Self.Addr(), h.table.Maps(), uint32(0)
	served := datapath.PrefixKey(bpf.DatapathPrefixKindPREFIX_SERVED, 0, netip.PrefixFrom(self, self.BitLen()))
	if maps.OwnAddresses.Lookup(self.As16(), &flags) != nil && maps.Prefixes.Lookup(served, &flags) != nil {
		e.Detail += fmt.Sprintf("; %s is no address of this host", self)
	}
}

// agreed returns a sender by the device of a question for its own address that does not go by the rule: the one with this MAC,
// or where all have learnt the same, who was heard last.
func (h *Host) agreed(q *Question, device int, mac net.HardwareAddr) (*flows.Sender, error) {
	list, err := flows.Senders(h.dir, h.table.Maps())
	isOnLink := flows.IsOnLink(h.table.Maps(), device, q.Peer.Addr())
	list = slices.DeleteFunc(list, func(s flows.Sender) bool {
		return s.Interface != q.Interface || s.Self != q.Self.Addr().String() || s.IsOfNeighbours() != isOnLink ||
			mac != nil && !bytes.Equal(mac, s.Key.Mac[:])
	})
	if len(list) == 0 || list[0].Way == flows.WayRule || slices.ContainsFunc(list, func(s flows.Sender) bool { return s.Way != list[0].Way }) {
		return nil, err
	}
	return &list[0], err
}

// suppose tells where the reply goes to a question that comes in by a device. Who would send the frame is known where its
// peer is a neighbour, or who did lately.
func (h *Host) suppose(q *Question, device int, e *Explanation) error {
	protocol := q.protocols()[0]
	tuple := q.tuple(protocol)
	mac, err := h.kernel.neighbour(device, q.Peer.Addr())
	if err != nil {
		return err
	}
	sender, err := h.agreed(q, device, mac)
	if err := errors.Join(err, h.programs.Set(tuple, true)); err != nil {
		return err
	}
	by := q.Interface
	if sender != nil {
		if err := h.programs.Teach(sender.Key); err != nil {
			return err
		}
		mac, by = sender.Key.Mac[:], by+" through "+finding.OrEmpty(sender.MAC)
	} else if mac == nil {
		mac = unknownMAC
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
	err = errors.Join(err, h.concludeOf(e, flow, cmp.Or(verdict, NoFlow), reason))
	e.Detail = fmt.Sprintf("no flow is recorded; if it arrived by %s: %s", by, e.Detail)
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
	err := h.table.Maps().OwnAddresses.Lookup(q.Self.Addr().As16(), &flags)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return kernelWay{}, fmt.Errorf("read the own addresses: %w", err)
	}
	return h.kernel.way(q, received, flags != 0, to)
}

// Bits of the TCP header (RFC 9293, 3.1), and types of ICMP and ICMPv6 (RFC 792; RFC 4443, 4).
const (
	tcpSYN, tcpACK           = 0x02, 0x10
	echoRequest, echoReply   = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// frame is a question, or what answers it, between a device of this host and a router or neighbour with these MACs; nil:
// none. `flags` are those of TCP. Behind the IP header there is room for that of TCP, whatever the protocol.
func (q *Question) frame(protocol uint8, answers bool, flags uint8, own, other net.HardwareAddr) []byte {
	const ethernet, payload = 14, 20
	from, to, source, destination := q.Peer, q.Self, other, own
	kinds := map[uint8]uint8{config.ProtocolTCP: flags, config.ProtocolICMP: echoRequest, config.ProtocolICMPv6: echoRequest6}
	if answers {
		from, to, source, destination = q.Self, q.Peer, own, other
		kinds[config.ProtocolICMP], kinds[config.ProtocolICMPv6] = echoReply, echoReply6
	}
	f := make([]byte, ethernet)
	copy(f[:6], destination)
	copy(f[6:12], source)
	if from.Addr().Is4() {
		binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
		f = append(f, 0x45, 0, 0, 20+payload, 0, 0, 0, 0, 64, protocol, 0, 0)
	} else {
		binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IPV6)
		f = append(f, 0x60, 0, 0, 0, 0, payload, protocol, 64)
	}
	f = append(append(f, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	var p [payload]byte
	if isEcho(protocol) {
		p[0] = kinds[protocol]
		binary.BigEndian.PutUint16(p[4:], q.Peer.Port())
	} else {
		binary.BigEndian.PutUint16(p[0:], from.Port())
		binary.BigEndian.PutUint16(p[2:], to.Port())
		p[12], p[13] = payload/4<<4, kinds[protocol]
	}
	return append(f, p[:]...)
}

// in has a question come in by a device.
func (h *Host) in(q *Question, protocol, flags uint8, device int, from net.HardwareAddr) (*bpf.DatapathTraceEvent, error) {
	link, err := h.kernel.LinkByIndex(device)
	if err != nil {
		return nil, err
	}
	return h.programs.In(q.frame(protocol, false, flags, link.Attrs().HardwareAddr, from), device)
}

// WhyNoFlow tells why a packet belongs to no flow: the verdict NoFlow, LocalOrigin or Excluded, and a reason where no flow
// would ever be recorded of what comes in by this device; 0: by any.
func (h *Host) WhyNoFlow(q *Question, device int) (verdict, reason string, err error) {
	return h.why(q, device, true)
}

// why is WhyNoFlow, for a packet with or without what is left of a flow.
func (h *Host) why(q *Question, device int, withFlow bool) (verdict, reason string, err error) {
	devices, known := []int{device}, false
	if device == 0 {
		devices = h.recording
	}
	for _, protocol := range q.protocols() {
		for _, device := range devices {
			if err := h.programs.Set(q.tuple(protocol), withFlow); err != nil {
				return "", "", err
			}
			// A SYN would begin a connection, whoever began the one before.
			event, err := h.in(q, protocol, tcpACK, device, unknownMAC)
			if err != nil {
				return "", "", err
			}
			v, r := refusal(event)
			if v == LocalOrigin {
				return v, r, nil
			}
			isRecorded := v == NoFlow && r == ""
			if !known || isRecorded {
				verdict, reason = v, r
			}
			if known = true; isRecorded {
				break
			}
		}
	}
	return verdict, reason, nil
}

// refusal tells why what came in started no flow. Of what answers the host nothing may have been counted.
func refusal(event *bpf.DatapathTraceEvent) (verdict, reason string) {
	switch reason := counters.Ignored(event.Counted); {
	case reason == "answer", event.Counted == 0 && event.Table == noTable:
		return LocalOrigin, ""
	case reason == "excluded":
		return Excluded, ""
	case noFlowDetails[reason] != "":
		return NoFlow, reason
	}
	return NoFlow, ""
}

// unknownMAC is of who would send a question, where that may be any router.
var unknownMAC = bpf.AnyPeer

// Tables of packets that belong to no flow.
const (
	noTable    = uint8(bpf.DatapathTableTABLE_END)
	originated = uint8(bpf.DatapathTableTABLE_ORIGINATED)
	related    = uint8(bpf.DatapathTableTABLE_RELATED)
)

// Outcome is that of an event, with the ways that handshakes taught, if the flow is still there.
func (h *Host) Outcome(event *bpf.DatapathTraceEvent) (verdict, reason string, err error) {
	if verdict, reason = Outcome(event); verdict != Corrected && verdict != AlreadyRight {
		return verdict, reason, nil
	}
	tables, digest := bpf.FlowTables(&h.table.Maps().DatapathMaps), h.programs.Seeds.Digest(event.Tuple)
	flow, err := tables[event.Table].Find(digest)
	if flow == nil && err == nil && event.Table == uint8(bpf.DatapathTableTABLE_HALF_OPEN) { // its handshake is completed by now
		flow, err = tables[bpf.DatapathTableTABLE_ESTABLISHED].Find(digest)
	}
	if flow != nil && (verdict != Corrected || event.Mac == flow.Mac) { // else it left before another way was tried
		verdict = ByWay(verdict, flow.Flags)
	}
	return verdict, reason, err
}

// Outcome tells what the programs made of a packet that leaves: a verdict, and a reason for Fallback. The verdict is "" where
// they left it alone as it belongs to no flow.
func Outcome(event *bpf.DatapathTraceEvent) (verdict, reason string) {
	switch outcome := bpf.DatapathOutcome(event.Outcome); {
	case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED && event.Table == originated:
		return StrongHost, ""
	case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED && event.Table == related:
		return Related, ""
	case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED:
		return Corrected, ""
	case outcome != 0 && outcome != bpf.DatapathOutcomeOUTCOME_WEAK_HOST:
		return Fallback, counters.UncorrectedReason(outcome)
	case event.Table < noTable:
		return AlreadyRight, ""
	}
	return "", ""
}
