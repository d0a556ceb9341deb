package explain

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/flows"
)

// newExplanation names what is asked about.
func newExplanation(q *Question) Explanation {
	e := Explanation{
		Family: "ipv6",
		Peer:   q.Peer.Addr().String(), PeerPort: q.Peer.Port(),
		Self: q.Self.Addr().String(), SelfPort: q.Self.Port(),
	}
	if q.Peer.Addr().Is4() {
		e.Family = "ipv4"
	}
	if q.Protocol != nil {
		e.Protocol = new(config.ProtocolName(*q.Protocol))
	}
	return e
}

// explainFlow tells where a reply of a flow goes.
func (h *Host) explainFlow(asked *Question, entry *flows.Entry) (Explanation, error) {
	q := asked.of(entry)
	e, err := h.explainEntry(&q, entry)
	e.Flow = &entry.Flow
	if in := entry.Interface; q.Interface != "" && (in == nil || *in != q.Interface) {
		e.Detail += fmt.Sprintf("; the flow came in by %s, not by %s", orUnknown(in), q.Interface)
	}
	return e, err
}

// explainEntry tells where a reply goes to which an entry of the flow table belongs.
func (h *Host) explainEntry(q *Question, entry *flows.Entry) (Explanation, error) {
	raw := &entry.Raw
	r := &reply{flow: raw, byHand: h.byHand, size: q.Size}
	e := newExplanation(q)
	asker, err := h.asker(q, int(raw.Ifindex))
	if err != nil {
		return e, err
	}
	if !isEcho(raw.Tuple.Protocol) { // the kernel's own socket answers, which is bound to nothing
		r.bound = asker.device
	}
	if r.target, err = h.targetOf(raw); err != nil {
		return e, err
	}
	if r.gateway, err = h.gatewayOf(raw, r.target); err != nil {
		return e, err
	}
	way, err := h.kernelWay(q, asker, &e.Kernel)
	if err != nil {
		return e, err
	}
	r.kernel, r.next, r.last = way.device, way.mac, h.isFallback(way.device)
	r.viaOurs = r.usesGateway() && way.nextHop == netip.AddrFrom16(r.gateway.Address).Unmap()
	if r.from, err = h.interfaceByIndex(way.device); err != nil {
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

// endsFlow tells whether the flow is one whose datagrams nobody took, and what is sent by its
// tuple a conversation of the host's own: begins_anew() in bpf/src/egress.h. Other sockets take
// the flow's next datagram.
func endsFlow(flow *bpf.DatapathFlow, q *Question) (bool, error) {
	untaken := flow.Flags&uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET) != 0 &&
		flow.State&uint8(bpf.DatapathFlowStateFLOW_ANSWERED) == 0
	if flow.Tuple.Protocol != unix.IPPROTO_UDP || !untaken {
		return false, nil
	}
	return asksBySocket(q)
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
// belongs to none, or where it would go if its question came in by a device.
func (h *Host) explainWithout(q *Question, device int) (Explanation, error) {
	if device != 0 {
		return h.explainSupposed(q, device)
	}
	verdict, reason, err := h.WhyNoFlow(q)
	if err != nil {
		return Explanation{}, err
	}
	return h.explainUnrecorded(q, verdict, reason)
}

// explainUnrecorded tells where a packet goes that is left alone.
func (h *Host) explainUnrecorded(q *Question, verdict, reason string) (Explanation, error) {
	e := newExplanation(q)
	asker, err := h.asker(q, 0)
	if err != nil {
		return e, err
	}
	if _, err := h.kernelWay(q, asker, &e.Kernel); err != nil {
		return e, err
	}
	e.conclude(verdict, reason)
	return e, nil
}

// WhyNoFlow tells why a packet belongs to no flow: the verdict NoFlow, LocalOrigin
// or Excluded, and a reason where no flow would ever be recorded.
func (h *Host) WhyNoFlow(q *Question) (verdict, reason string, err error) {
	if excluded, err := h.excluded(q); excluded || err != nil {
		return Excluded, "", err
	}
	for _, started := range []func(*Question) (bool, error){h.spokeFirst, asksBySocket} {
		if yes, err := started(q); yes || err != nil {
			return LocalOrigin, "", err
		}
	}
	reason, err = h.refused(q)
	return NoFlow, reason, err
}

// asker finds what the kernel wants to know of the socket that sends, where one
// can be told. received is the device by which the packets of the flow come in, 0
// for none.
func (h *Host) asker(q *Question, received int) (asker, error) {
	a := asker{protocol: q.Protocol}
	vrf := h.vrf(received)
	s, err := askSocket(q, received, vrf, 0)
	if err != nil {
		return a, err
	}
	switch {
	case s != nil:
		a.device, a.uid, a.mark = s.Device, &s.UID, s.Mark
	case q.Protocol != nil && isEcho(*q.Protocol):
		a.device = vrf // the kernel answers in the VRF of the question (icmp_reply)
	}
	return a, nil
}

// vrf returns the VRF that a device belongs to, 0 for none.
func (h *Host) vrf(device int) int {
	link, err := h.netlink.LinkByIndex(device)
	if device == 0 || err != nil || link.Attrs().MasterIndex == 0 {
		return 0
	}
	master, err := h.netlink.LinkByIndex(link.Attrs().MasterIndex)
	if _, is := master.(*netlink.Vrf); err != nil || !is {
		return 0
	}
	return master.Attrs().Index
}

// kernelWay is the kernel's choice.
type kernelWay struct {
	device  int
	nextHop netip.Addr
	mac     *[6]uint8 // nil where it is not resolved
}

// kernelWay asks the kernel for its choice and describes it.
func (h *Host) kernelWay(q *Question, a asker, to *Kernel) (kernelWay, error) {
	r, err := h.kernelRoute(q, a)
	if err != nil {
		return kernelWay{}, err
	}
	if r.table != 0 {
		to.Table = &r.table
	}
	if r.err != nil {
		to.Error = new(r.err.Error())
		return kernelWay{}, nil
	}
	link, err := h.netlink.LinkByIndex(r.device)
	if err != nil {
		return kernelWay{}, fmt.Errorf("find the interface of the kernel's route: %w", err)
	}
	to.Interface = &link.Attrs().Name
	way := kernelWay{device: r.device, nextHop: q.Peer.Addr()}
	if r.gateway.IsValid() {
		way.nextHop = r.gateway
		to.Gateway = new(r.gateway.String())
	}
	if way.mac, err = h.neighbour(r.device, way.nextHop); err != nil {
		return way, err
	}
	if way.mac != nil {
		to.NextHopMAC = new(net.HardwareAddr(way.mac[:]).String())
	}
	return way, nil
}

// conclude writes down the verdict, and what follows from it.
func (e *Explanation) conclude(verdict, reason string) {
	e.Verdict = verdict
	if reason != "" {
		e.Reason = &reason
	}
	e.Detail = e.detail(verdict, reason)
	switch {
	case verdict == Corrected:
		e.LeavesBy = e.Replypath.Interface
	case e.Kernel.Interface != nil && *e.Kernel.Interface == discover.OwnDevice:
		e.Detail += "; without a default route that is " + discover.OwnDevice + ", where it ends"
	default:
		e.LeavesBy = e.Kernel.Interface
	}
}
