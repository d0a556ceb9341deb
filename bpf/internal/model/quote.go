// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"
)

// errorOut is about an ICMP error that the host sends: it goes back by the way of
// the packet that it quotes.
func (m *Model) errorOut(p *packet, frame Frame) Verdict {
	quoted := readQuote(p.quote, p.family)
	if quoted == nil || quoted.from != p.to {
		return Verdict{}
	}
	t := quoted.inbound()
	if t.Protocol == protoTCP {
		if _, ok := m.established(t); ok {
			return m.reply(tableEstablished, t, p, frame)
		}
	} else if _, ok := m.connectionless(t); ok {
		return m.reply(tableConnectionless, t, p, frame)
	}
	if _, ok := m.halfOpen(t); ok { // also what nobody here knows
		return m.reply(tableHalfOpen, t, p, frame)
	}
	return Verdict{}
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
