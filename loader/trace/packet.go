// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/explain"
)

// packet describes a passage. uncertain: events were lost, so that what was not
// told may have happened.
func (s *session) packet(p *passage, uncertain bool) (Packet, error) {
	t := &p.Tuple
	packet := Packet{
		Time:     time.Unix(0, int64(p.Time)).Add(s.names.offset),
		Protocol: config.ProtocolName(t.Protocol), Family: "ipv6",
		Peer: datapath.Address(t.Peer).String(), PeerPort: datapath.Port(t.PeerPort),
		Self: datapath.Address(t.Self).String(), SelfPort: datapath.Port(t.SelfPort),
		Length: p.Length, Packets: p.Packets,
	}
	if p.Family == 4 {
		packet.Family = "ipv4"
	}
	form, special := forms[bpf.DatapathTraceForm(p.Form)]
	if special {
		packet.Form = &form
	} else if t.Protocol == unix.IPPROTO_TCP {
		packet.TCPFlags = new(tcpFlags(p.TcpFlags))
	}
	var err error
	if p.Kind == kindIn {
		err = s.inbound(p, &packet)
	} else {
		err = s.outbound(p, &packet, uncertain)
	}
	return packet, err
}

// inbound tells what the recording made of a packet.
func (s *session) inbound(p *passage, to *Packet) error {
	to.Direction = Inbound
	to.InterfaceIn = s.names.device(p.Ifindex)
	to.SourceMAC = macOf(p.Mac)
	refused, ignored := counters.Refused(p.Counted), counters.Ignored(p.Counted)
	hasFlow := p.Table != noTable
	switch {
	case hasFlow && hasMoved(p.Counted):
		to.Verdict = Moved
	case refused != "":
		to.Verdict, to.Reason = Refused, &refused
	case hasFlow && isNew(p.Counted):
		to.Verdict = New
	case hasFlow:
		to.Verdict = Known
	case ignored != "":
		to.Verdict, to.Reason = Ignored, &ignored
	default:
		return s.whyIgnored(p, to)
	}
	return nil
}

// whyIgnored finds out about a packet of which nothing was counted: it answers
// what the host started, or its tuple is known to be no flow.
func (s *session) whyIgnored(p *passage, to *Packet) error {
	to.Verdict = Ignored
	if isAnswer(p) {
		to.Reason = new("answer")
		return nil
	}
	why, err := s.names.why(s.host, p.Tuple)
	switch {
	case err != nil:
		return err
	case why.verdict == explain.LocalOrigin:
		to.Reason = new("answer")
	case why.verdict == explain.Excluded:
		to.Reason = new("excluded")
	case why.reason != "":
		to.Reason = &why.reason
	}
	return nil
}

// Bits of the TCP header (RFC 9293, 3.1).
const (
	tcpSYN = 0x02
	tcpACK = 0x10
)

// forms of packets that are not plain ones.
var forms = map[bpf.DatapathTraceForm]string{
	bpf.DatapathTraceFormTRACE_ECHO_REQUEST: EchoRequest,
	bpf.DatapathTraceFormTRACE_ECHO_REPLY:   EchoReply,
	bpf.DatapathTraceFormTRACE_ERROR:        ICMPError,
	bpf.DatapathTraceFormTRACE_FRAGMENT:     Fragment,
}

func (p *passage) is(form bpf.DatapathTraceForm) bool { return p.Form == uint8(form) }

// isAnswer tells of an inbound packet that only answers.
func isAnswer(p *passage) bool {
	return p.is(bpf.DatapathTraceFormTRACE_ECHO_REPLY) || p.TcpFlags&(tcpSYN|tcpACK) == tcpSYN|tcpACK
}

// isBeginning tells of an outbound packet that starts something.
func isBeginning(p *passage) bool {
	return p.is(bpf.DatapathTraceFormTRACE_ECHO_REQUEST) || p.TcpFlags&(tcpSYN|tcpACK) == tcpSYN
}

// outbound tells what became of a packet of this host's.
func (s *session) outbound(p *passage, to *Packet, uncertain bool) error {
	to.Direction = Outbound
	to.InterfaceIn = s.names.device(p.FlowIfindex)
	to.Kernel = Way{s.names.device(p.Ifindex), macOf(p.KernelMac)}
	to.SeenLeaving = new(p.left)
	if p.OutIfindex == 0 {
		why := bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP
		if bpf.DatapathOutcome(p.Outcome) == bpf.DatapathOutcomeOUTCOME_MTU {
			why = bpf.DatapathOutcomeOUTCOME_MTU
		}
		to.Verdict, to.Reason = Returned, new(counters.UncorrectedReason(why))
		return nil
	}
	to.Out = Way{s.names.device(p.OutIfindex), macOf(p.Mac)}
	verdict, reason, err := s.host.Outcome(p.DatapathTraceEvent)
	switch {
	case err != nil:
		return err
	case isMoved(p.DatapathTraceEvent) && !p.left && !uncertain:
		verdict, reason = Unseen, ""
	case verdict != "":
	case isBeginning(p):
		verdict = explain.LocalOrigin
	default:
		why, err := s.names.why(s.host, p.Tuple)
		if err != nil {
			return err
		}
		verdict, reason = why.verdict, why.reason
	}
	to.Verdict = verdict
	if reason != "" {
		to.Reason = &reason
	}
	if uncertain && !p.left {
		to.SeenLeaving = nil
	}
	return nil
}

// noTable is that of packets that belong to no flow.
const noTable = uint8(bpf.DatapathTableTABLE_END)

// tcpFlags are the letters of the flags that are set, as tcpdump has them.
func tcpFlags(bits uint8) string {
	var set strings.Builder
	for _, flag := range []struct {
		bit    uint8
		letter byte
	}{{0x02, 'S'}, {0x01, 'F'}, {0x04, 'R'}, {0x08, 'P'}, {0x10, 'A'}, {0x20, 'U'}, {0x40, 'E'}, {0x80, 'W'}} {
		if bits&flag.bit != 0 {
			set.WriteByte(flag.letter)
		}
	}
	return set.String()
}

// macOf is nil for a device without MACs.
func macOf(mac [6]uint8) *string {
	if mac == [6]uint8{} {
		return nil
	}
	return new(net.HardwareAddr(mac[:]).String())
}
