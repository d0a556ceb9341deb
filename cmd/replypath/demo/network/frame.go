package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
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

// Sizes of what is looked at.
const (
	ethernetHeader = 14
	portsLength    = 4
	tcpFlagsAt     = 13
)

// decode returns nil for all but TCP, UDP and echo replies.
func decode(data []byte) *Frame {
	if len(data) < ethernetHeader {
		return nil
	}
	f := &Frame{DestinationMAC: data[:6], SourceMAC: data[6:12]}
	packet := data[ethernetHeader:]
	var (
		from, to net.IP
		protocol int
		size     int
	)
	switch binary.BigEndian.Uint16(data[12:]) {
	case unix.ETH_P_IP:
		header, err := ipv4.ParseHeader(packet)
		if err != nil {
			return nil
		}
		from, to, protocol, size = header.Src, header.Dst, header.Protocol, header.Len
	case unix.ETH_P_IPV6:
		header, err := ipv6.ParseHeader(packet)
		if err != nil {
			return nil
		}
		from, to, protocol, size = header.Src, header.Dst, header.NextHeader, ipv6.HeaderLen
	default:
		return nil
	}
	return f.decodeTransport(from, to, protocol, packet[size:])
}

// decodeTransport completes a frame, or returns nil.
func (f *Frame) decodeTransport(from, to net.IP, protocol int, segment []byte) *Frame {
	if len(segment) < portsLength {
		return nil
	}
	var ports [2]uint16
	switch {
	case protocol == unix.IPPROTO_TCP && len(segment) > tcpFlagsAt:
		f.Protocol, f.TCPFlags = "tcp", TCPFlags(segment[tcpFlagsAt])
	case protocol == unix.IPPROTO_UDP:
		f.Protocol = "udp"
	case protocol == unix.IPPROTO_ICMP && segment[0] == byte(ipv4.ICMPTypeEchoReply):
		f.Protocol = "icmp"
	case protocol == unix.IPPROTO_ICMPV6 && segment[0] == byte(ipv6.ICMPTypeEchoReply):
		f.Protocol = "icmpv6"
	default:
		return nil
	}
	if f.Protocol == "tcp" || f.Protocol == "udp" {
		ports = [2]uint16{binary.BigEndian.Uint16(segment), binary.BigEndian.Uint16(segment[2:])}
	}
	f.Source, f.Destination = endpoint(from, ports[0]), endpoint(to, ports[1])
	return f
}

func endpoint(ip net.IP, port uint16) netip.AddrPort {
	address, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(address.Unmap(), port)
}
