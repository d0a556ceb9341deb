// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Frame is what the headers of a captured frame say.
type Frame struct {
	SourceMAC, DestinationMAC net.HardwareAddr
	// Source and Destination have port 0 where there are no ports.
	Source, Destination netip.AddrPort
	// Protocol is as in the flow table: tcp, udp, and for echo replies icmp and icmpv6.
	Protocol string
	TCPFlags TCPFlags
}

// TCPFlags are the control bits of RFC 9293.
type TCPFlags byte

// String lists the bits as tcpdump does: "S." is SYN and ACK.
func (f TCPFlags) String() string {
	var b strings.Builder
	for i, letter := range "FSRP." {
		if f&(1<<i) != 0 {
			b.WriteRune(letter)
		}
	}
	return b.String()
}

const (
	ethernetHeader = 14
	tcpFlagsAt     = 13
	// segmentLength is as much as is looked at beyond the IP header.
	segmentLength = 14
)

// ipHeaders have the places of what is looked at in them, by EtherType. Those of IPv4 have no options here.
var ipHeaders = map[uint16]struct{ protocolAt, addressesAt, addressLength, length int }{
	unix.ETH_P_IP:   {9, 12, 4, 20},
	unix.ETH_P_IPV6: {6, 8, 16, 40},
}

// decode returns nil for all but TCP, UDP and echo replies.
func decode(data []byte) *Frame {
	if len(data) < ethernetHeader {
		return nil
	}
	packet := data[ethernetHeader:]
	ip, known := ipHeaders[binary.BigEndian.Uint16(data[12:])]
	if !known || len(packet) < ip.length {
		return nil
	}
	f := &Frame{DestinationMAC: data[:6], SourceMAC: data[6:12]}
	from, _ := netip.AddrFromSlice(packet[ip.addressesAt:][:ip.addressLength])
	to, _ := netip.AddrFromSlice(packet[ip.addressesAt+ip.addressLength:][:ip.addressLength])
	// Zeros stand for what is missing: a datagram may be shorter.
	var segment [segmentLength]byte
	copy(segment[:], packet[ip.length:])
	var ports [2]uint16
	switch protocol := packet[ip.protocolAt]; protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		ports = [2]uint16{binary.BigEndian.Uint16(segment[:]), binary.BigEndian.Uint16(segment[2:])}
		f.Protocol = "udp"
		if protocol == unix.IPPROTO_TCP {
			f.Protocol, f.TCPFlags = "tcp", TCPFlags(segment[tcpFlagsAt])
		}
	default:
		if f.Protocol = echoReplies[[2]byte{protocol, segment[0]}]; f.Protocol == "" {
			return nil
		}
	}
	f.Source, f.Destination = netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1])
	return f
}

// echoReplies have the names of protocols by number and type.
var echoReplies = map[[2]byte]string{
	{unix.IPPROTO_ICMP, 0}:     "icmp",
	{unix.IPPROTO_ICMPV6, 129}: "icmpv6",
}
