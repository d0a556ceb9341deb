// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/counters"
)

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
