// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"

	"replypath/bpf"
)

// IP protocols (IANA).
const (
	protoHopByHop     = 0
	protoICMP         = 1
	protoTCP          = 6
	protoUDP          = 17
	protoRouting      = 43
	protoFragment     = 44
	protoICMPv6       = 58
	protoDestinations = 60
	protoSCTP         = 132
)

// TCP flags (RFC 9293, 3.1).
const (
	FlagFIN = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
)

// maxExtensionHeaders are looked at in an IPv6 packet.
const maxExtensionHeaders = 8

// packet is what is read of a frame.
type packet struct {
	family   uint8
	from, to netip.Addr
	protocol uint8
	fromPort uint16 // 0 where the protocol has no ports; an echo's identifier
	toPort   uint16
	first    bool // of several fragments
	later    bool // a fragment without a transport header
	id       uint32
	inside   uint8 // IPv4: the protocol, which is part of what fragments have in common
	length   uint32
	offset   uint32 // of the transport header in the IP packet
	headers  uint32 // of the IP packet, up to the transport's payload

	// ICMP
	echoRequest, echoReply bool
	otherICMP              bool
	quote                  []byte // of an ICMP error

	// TCP
	flags    uint8
	seq, ack uint32
	payload  uint32

	link        uint32 // size of the Ethernet header
	destination MAC    // of the frame
	source      MAC
}

// unreadable are the events of which one is counted; empty: it is no IP at all.
type unreadable []Event

const (
	truncated    = bpf.DatapathEventEVENT_UNPARSED_TRUNCATED
	malformed    = bpf.DatapathEventEVENT_UNPARSED_MALFORMED
	laterPart    = bpf.DatapathEventEVENT_UNPARSED_FRAGMENT
	tooMany      = bpf.DatapathEventEVENT_UNPARSED_EXTENSION_HEADERS
	sourceRouted = bpf.DatapathEventEVENT_UNPARSED_SOURCE_ROUTE
)

// Whether a packet is called truncated or malformed is a matter of what is read
// first.
var damaged = unreadable{truncated, malformed}

const ethernetSize = 14

// read reads a frame. It is nil where it cannot be read.
func read(f Frame) (*packet, unreadable) {
	p := &packet{}
	ip := f.Bytes
	kind := uint16(0)
	if f.NoHeader {
		kind = f.Protocol
	} else {
		if len(ip) < ethernetSize {
			return nil, nil
		}
		p.link = ethernetSize
		copy(p.destination[:], ip[0:])
		copy(p.source[:], ip[6:])
		kind = binary.BigEndian.Uint16(ip[12:])
		ip = ip[ethernetSize:]
	}
	switch kind {
	case 0x0800:
		return p.readIPv4(ip, f)
	case 0x86dd:
		return p.readIPv6(ip, f)
	default:
		return nil, nil
	}
}

// readIPv4 reads what RFC 791 says.
func (p *packet) readIPv4(ip []byte, f Frame) (*packet, unreadable) {
	if len(ip) < 20 {
		return nil, damaged
	}
	header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if total == 0 && f.GSOSize != 0 { // more than 64 KiB
		total = len(ip)
	}
	if ip[0]>>4 != 4 || header < 20 || header > total || total > len(ip) {
		return nil, damaged
	}
	fragment := binary.BigEndian.Uint16(ip[6:])
	p.family, p.protocol, p.length = 4, ip[9], uint32(total)
	p.from, _ = netip.AddrFromSlice(ip[12:16])
	p.to, _ = netip.AddrFromSlice(ip[16:20])
	p.id, p.inside = uint32(binary.BigEndian.Uint16(ip[4:])), p.protocol
	if fragment&0x1fff != 0 {
		p.later = true
		return p, unreadable{laterPart}
	}
	p.first = fragment&0x2000 != 0
	return p.readTransport(ip[header:total], uint32(header))
}

// readIPv6 reads what RFC 8200 says.
func (p *packet) readIPv6(ip []byte, f Frame) (*packet, unreadable) {
	if len(ip) < 40 {
		return nil, damaged
	}
	total := 40 + int(binary.BigEndian.Uint16(ip[4:]))
	if total == 40 && f.GSOSize != 0 {
		total = len(ip)
	}
	p.family, p.protocol, p.length = 6, ip[6], uint32(total)
	p.from, _ = netip.AddrFromSlice(ip[8:24])
	p.to, _ = netip.AddrFromSlice(ip[24:40])
	if ip[0]>>4 != 6 || total > len(ip) || p.from.Is4In6() || p.to.Is4In6() {
		return nil, damaged
	}
	beyond := *p
	offset, failed := p.skipExtensions(ip[:total])
	if len(failed) > 0 {
		if failed[0] == truncated {
			// What follows the packet in the frame may say more before its length does.
			_, more := beyond.skipExtensions(ip)
			failed = append(more, damaged...)
		}
		return p, failed
	}
	return p.readTransport(ip[offset:total], uint32(offset))
}

// skipExtensions finds what follows the extension headers.
func (p *packet) skipExtensions(ip []byte) (offset int, failed unreadable) {
	offset = 40
	for count := 0; isExtension(p.protocol); count++ {
		rest := ip[offset:]
		if count == maxExtensionHeaders {
			return 0, unreadable{tooMany}
		}
		if len(rest) < 4 {
			return 0, damaged
		}
		size := 8
		switch p.protocol {
		case protoFragment:
			fragment := binary.BigEndian.Uint16(rest[2:])
			if len(rest) >= 8 {
				p.id = binary.BigEndian.Uint32(rest[4:])
			}
			if fragment&^7 != 0 && len(rest) < 8 {
				return 0, unreadable{laterPart, truncated, malformed}
			}
			if fragment&^7 != 0 {
				p.later = true
				return 0, unreadable{laterPart}
			}
			p.first = p.first || fragment&1 != 0
		case protoRouting:
			if rest[3] != 0 && len(rest) < 8 {
				return 0, unreadable{sourceRouted, truncated, malformed}
			}
			if rest[3] != 0 {
				return 0, unreadable{sourceRouted}
			}
			fallthrough
		default:
			size += int(rest[1]) * 8
		}
		switch {
		case len(rest) >= size:
		case count == maxExtensionHeaders-1 && isExtension(rest[0]):
			return 0, unreadable{truncated, malformed, tooMany}
		default:
			return 0, damaged
		}
		p.protocol = rest[0]
		offset += size
	}
	return offset, nil
}

func isExtension(protocol uint8) bool {
	switch protocol {
	case protoHopByHop, protoRouting, protoFragment, protoDestinations:
		return true
	}
	return false
}

// readTransport reads the part that tells flows apart; network is the size of
// everything before it.
func (p *packet) readTransport(rest []byte, network uint32) (*packet, unreadable) {
	p.offset, p.headers = network, network
	switch p.protocol {
	case protoTCP:
		if len(rest) < 20 {
			return nil, damaged
		}
		header := int(rest[12]>>4) * 4
		if header < 20 || header > len(rest) {
			return nil, damaged
		}
		p.readPorts(rest)
		p.seq, p.ack = binary.BigEndian.Uint32(rest[4:]), binary.BigEndian.Uint32(rest[8:])
		p.flags = rest[13]
		p.headers += uint32(header)
		p.payload = uint32(len(rest) - header)
	case protoUDP, protoSCTP:
		if len(rest) < 8 {
			return nil, damaged
		}
		p.readPorts(rest)
		p.headers += 8
	case protoICMP, protoICMPv6:
		return p.readICMP(rest)
	}
	return p, nil
}

func (p *packet) readPorts(rest []byte) {
	p.fromPort, p.toPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
}

// readICMP reads echo requests and replies (RFC 792, RFC 4443).
func (p *packet) readICMP(rest []byte) (*packet, unreadable) {
	if (p.protocol == protoICMP) != (p.family == 4) {
		p.otherICMP = true // belongs into the other family: no protocol of this one
		return p, nil
	}
	if len(rest) < 8 {
		return nil, damaged
	}
	p.echoRequest = isRequest(p.family, rest[0]) && rest[1] == 0
	p.echoReply = isReply(p.family, rest[0]) && rest[1] == 0
	p.otherICMP = !p.echoRequest && !p.echoReply
	if !p.otherICMP {
		p.fromPort = binary.BigEndian.Uint16(rest[4:])
	}
	if p.family == 4 && (rest[0] == 3 || rest[0] == 11 || rest[0] == 12) || p.family == 6 && rest[0] >= 1 && rest[0] <= 4 {
		p.quote = rest[8:]
	}
	return p, nil
}

// readQuote reads the packet that an error is about, of which not all may be
// there: eight bytes of its transport header are enough (RFC 792).
func readQuote(ip []byte, family uint8) *packet {
	p := &packet{family: family}
	offset := 0
	switch {
	case family == 4:
		if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 || binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
			return nil
		}
		p.protocol = ip[9]
		p.from, _ = netip.AddrFromSlice(ip[12:16])
		p.to, _ = netip.AddrFromSlice(ip[16:20])
		offset = int(ip[0]&15) * 4
	case len(ip) < 40 || ip[0]>>4 != 6:
		return nil
	default:
		var failed unreadable
		p.protocol = ip[6]
		p.from, _ = netip.AddrFromSlice(ip[8:24])
		p.to, _ = netip.AddrFromSlice(ip[24:40])
		offset, failed = p.skipExtensions(ip)
		switch {
		case p.from.Is4In6() || p.to.Is4In6():
			return nil
		case len(failed) > 0:
			return nil
		}
	}
	return p.readQuotedPorts(ip[min(offset, len(ip)):])
}

func (p *packet) readQuotedPorts(rest []byte) *packet {
	icmp := uint8(protoICMP)
	if p.family == 6 {
		icmp = protoICMPv6
	}
	switch p.protocol {
	case protoTCP, protoUDP, protoSCTP:
		if len(rest) < 8 {
			return nil
		}
		p.readPorts(rest)
	case icmp:
		if len(rest) < 8 || !isRequest(p.family, rest[0]) || rest[1] != 0 {
			return nil
		}
		p.fromPort = binary.BigEndian.Uint16(rest[4:])
	case protoICMP, protoICMPv6:
		return nil
	}
	return p
}

// isRequest and isReply tell echo and, of IPv4, timestamps.
func isRequest(family, kind uint8) bool {
	return family == 4 && (kind == 8 || kind == 13) || family == 6 && kind == 128
}

func isReply(family, kind uint8) bool {
	return family == 4 && (kind == 0 || kind == 14) || family == 6 && kind == 129
}

// turned is the packet as its peer's answer would be.
func (p *packet) turned() *packet {
	q := *p
	q.from, q.to, q.fromPort, q.toPort = p.to, p.from, p.toPort, p.fromPort
	return &q
}

// inbound is the tuple of a packet from a peer.
func (p *packet) inbound() Tuple {
	return tuple(p.protocol, p.from, p.to, p.fromPort, p.toPort)
}

// outbound is the tuple of a packet to a peer.
func (p *packet) outbound() Tuple {
	if p.protocol == protoICMP || p.protocol == protoICMPv6 {
		return tuple(p.protocol, p.to, p.from, p.fromPort, 0)
	}
	return tuple(p.protocol, p.to, p.from, p.toPort, p.fromPort)
}

func tuple(protocol uint8, peer, self netip.Addr, peerPort, selfPort uint16) Tuple {
	return Tuple{
		Peer: peer.As16(), Self: self.As16(), PeerPort: network(peerPort), SelfPort: network(selfPort), Protocol: protocol,
	}
}

// network is a number in network byte order.
func network(host uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, host))
}

func (p *packet) has(flags uint8) bool { return p.flags&flags == flags }

// class is the name under which a protocol is counted.
func class(protocol uint8) bpf.DatapathProtocolClass {
	switch protocol {
	case protoTCP:
		return bpf.DatapathProtocolClassCLASS_TCP
	case protoUDP:
		return bpf.DatapathProtocolClassCLASS_UDP
	case protoICMP:
		return bpf.DatapathProtocolClassCLASS_ICMP
	case protoICMPv6:
		return bpf.DatapathProtocolClassCLASS_ICMPV6
	case protoSCTP:
		return bpf.DatapathProtocolClassCLASS_SCTP
	default:
		return bpf.DatapathProtocolClassCLASS_OTHER
	}
}
