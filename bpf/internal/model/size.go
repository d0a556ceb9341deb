// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"replypath/bpf"
)

// Replies by an interface with a smaller MTU than the one that they were made
// for: SYN and SYN-ACK announce what fits, and who sends what does not is told.

const (
	interfaceNarrow = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NARROW)

	quoted     = 128 // bytes of a packet stand in the error about it
	smallestV4 = 552 // below these sizes the kernel does not believe it
	smallestV6 = 1280
)

// TCP options (IANA).
const (
	optionEnd  = 0
	optionNop  = 1
	optionMSS  = 2
	optionAuth = 29 // signs the others: RFC 5925
)

// announced is the verdict about a SYN that came in.
func (m *Model) announced(f Frame, p *packet) Verdict {
	_, record, ok := m.managed(f.Ifindex)
	if !ok {
		return Verdict{}
	}
	changed := bytes.Clone(f.Bytes)
	m.announce(changed, p, record)
	return Verdict{Bytes: changed}
}

// announce lowers the segment size in a SYN's options to what its interface
// takes, if another interface takes more.
func (m *Model) announce(frame []byte, p *packet, record Interface) {
	ipSize := uint32(20)
	if p.family == 6 {
		ipSize = 40
	}
	if record.Flags&interfaceNarrow == 0 || m.observes(record) || p.first || record.Mtu <= ipSize+20 {
		return
	}
	segment := frame[p.link+p.offset : p.link+p.headers]
	at := mssOption(segment)
	largest := record.Mtu - ipSize - 20
	if at == 0 || uint32(binary.BigEndian.Uint16(segment[at:])) <= largest {
		return
	}
	before := onesComplementSum(segment[at&^1 : at&^1+4])
	binary.BigEndian.PutUint16(segment[at:], uint16(largest))
	after := onesComplementSum(segment[at&^1 : at&^1+4])
	// RFC 1624, equation 3.
	sum := uint32(^binary.BigEndian.Uint16(segment[16:])) + uint32(^before) + uint32(after)
	binary.BigEndian.PutUint16(segment[16:], ^fold(sum))
}

// mssOption is where the value of the only MSS option stands in a TCP header; 0
// where there is none, or where it cannot be changed.
func mssOption(segment []byte) int {
	found := 0
	for at := 20; at < len(segment); {
		switch segment[at] {
		case optionEnd:
			return found
		case optionNop:
			at++
			continue
		}
		if at+1 >= len(segment) || segment[at+1] < 2 || at+int(segment[at+1]) > len(segment) {
			return 0
		}
		size := int(segment[at+1])
		switch segment[at] {
		case optionAuth:
			return 0
		case optionMSS:
			if size != 4 || found != 0 {
				return 0
			}
			found = at + 2
		}
		at += size
	}
	return found
}

// tell turns a packet that is too large into a message to its sender, as a router
// on the way would send it, at most once a second for each flow.
func (m *Model) tell(f *Flow, p *packet, frame Frame, record Interface) Verdict {
	smallest := uint32(smallestV4)
	if p.family == 6 {
		smallest = smallestV6
	}
	if p.later || record.Mtu < smallest || p.offset+20 > quoted ||
		f.SizeTold != 0 && uint32(uint16(m.Now)-f.SizeTold) < m.Ticks(1) { // 0: never
		return Verdict{}
	}
	f.SizeTold = max(uint16(m.Now), 1)
	tooBig := tooBigV4
	if p.family == 6 {
		tooBig = tooBigV6
	}
	message := slices.Concat(p.source[:], p.source[:], tooBig(p.to, p.from, record.Mtu, frame.Bytes[p.link:p.link+quoted]))
	if frame.NoHeader {
		message = message[ethernetSize:]
	}
	return Verdict{Redirect: frame.Ifindex, Inward: true, Bytes: message}
}

// tooBigV4 is "fragmentation needed" (RFC 1191), with the EtherType before it.
func tooBigV4(from, to netip.Addr, mtu uint32, quote []byte) []byte {
	icmp := append(binary.BigEndian.AppendUint32([]byte{3, 4, 0, 0}, mtu), quote...)
	binary.BigEndian.PutUint16(icmp[2:], ^onesComplementSum(icmp))
	ip := slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 255, protoICMP, 0, 0}, from.AsSlice(), to.AsSlice())
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(icmp)))
	binary.BigEndian.PutUint16(ip[10:], ^onesComplementSum(ip))
	return slices.Concat([]byte{0x08, 0x00}, ip, icmp)
}

// tooBigV6 is "packet too big" (RFC 4443, 3.2), with the EtherType before it.
func tooBigV6(from, to netip.Addr, mtu uint32, quote []byte) []byte {
	icmp := append(binary.BigEndian.AppendUint32([]byte{2, 0, 0, 0}, mtu), quote...)
	addresses := slices.Concat(from.AsSlice(), to.AsSlice())
	pseudo := binary.BigEndian.AppendUint32(nil, uint32(len(icmp)))
	pseudo = slices.Concat(addresses, pseudo, []byte{0, 0, 0, protoICMPv6}, icmp)
	binary.BigEndian.PutUint16(icmp[2:], ^onesComplementSum(pseudo))
	ip := []byte{0x60, 0, 0, 0, 0, 0, protoICMPv6, 255}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(icmp)))
	return slices.Concat([]byte{0x86, 0xdd}, ip, addresses, icmp)
}

// onesComplementSum is RFC 1071's, of an even number of bytes.
func onesComplementSum(data []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	return fold(sum)
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
