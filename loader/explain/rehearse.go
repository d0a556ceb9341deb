// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/counters"
)

// Bits of the TCP header (RFC 9293, 3.1), and types of ICMP and ICMPv6 (RFC 792; RFC 4443, 4).
const (
	tcpSYN, tcpACK            = 0x02, 0x10
	echoRequest, echoReply    = 8, 0
	echoRequest6, echoReply6  = 128, 129
	ethernetSize, payloadSize = 14, 20 // of a frame that is rehearsed: behind the IP header there is room for that of TCP
)

// frame is one that is rehearsed.
type frame struct {
	source, destination net.HardwareAddr // nil: no MAC
	from, to            netip.AddrPort
	identifier          uint16 // of an echo
	protocol            uint8
	kind                byte // flags of TCP, or type of ICMP
}

func (f *frame) bytes() []byte {
	b := make([]byte, ethernetSize)
	copy(b[:6], f.destination)
	copy(b[6:12], f.source)
	if f.from.Addr().Is4() {
		binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
		b = append(b, 0x45, 0, 0, 20+payloadSize, 0, 0, 0, 0, 64, f.protocol, 0, 0)
	} else {
		binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IPV6)
		b = append(b, 0x60, 0, 0, 0, 0, payloadSize, f.protocol, 64)
	}
	b = append(append(b, f.from.Addr().AsSlice()...), f.to.Addr().AsSlice()...)
	var p [payloadSize]byte
	if isEcho(f.protocol) {
		p[0] = f.kind
		binary.BigEndian.PutUint16(p[4:], f.identifier)
	} else {
		binary.BigEndian.PutUint16(p[0:], f.from.Port())
		binary.BigEndian.PutUint16(p[2:], f.to.Port())
		p[12], p[13] = payloadSize/4<<4, f.kind
	}
	return append(b, p[:]...)
}

// in has a question come in from a router or a neighbour with this MAC. `flags` are those of TCP.
func (h *Host) in(q *Question, protocol, flags uint8, device int, source net.HardwareAddr) (*bpf.DatapathTraceEvent, error) {
	link, err := h.kernel.LinkByIndex(device)
	if err != nil {
		return nil, err
	}
	kind := map[uint8]byte{config.ProtocolTCP: flags, config.ProtocolICMP: echoRequest, config.ProtocolICMPv6: echoRequest6}[protocol]
	f := frame{source, link.Attrs().HardwareAddr, q.Peer, q.Self, q.Peer.Port(), protocol, kind}
	return h.programs.In(f.bytes(), device)
}

// out has what is asked about leave by the kernel's way.
func (h *Host) out(q *Question, protocol, flags uint8, way *kernelWay) (*bpf.DatapathTraceEvent, error) {
	kind := map[uint8]byte{config.ProtocolTCP: flags, config.ProtocolICMP: echoReply, config.ProtocolICMPv6: echoReply6}[protocol]
	f := frame{way.link.Attrs().HardwareAddr, way.mac, q.Self, q.Peer, q.Peer.Port(), protocol, kind}
	return h.programs.Out(f.bytes(), way.device)
}

// WhyNoFlow tells why a packet belongs to no flow: the verdict NoFlow, LocalOrigin or Excluded, and a reason where no flow
// would ever be recorded of what comes in by this device; 0: by any.
func (h *Host) WhyNoFlow(q *Question, device int) (verdict, reason string, err error) {
	devices, known := []int{device}, false
	if device == 0 {
		devices = h.recording
	}
	for _, protocol := range q.protocols() {
		for _, device := range devices {
			if err := h.programs.Set(q.tuple(protocol), false); err != nil {
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
