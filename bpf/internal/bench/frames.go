// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf/internal/rig"
)

const (
	peerPort    = 40000
	payloadSize = 64

	ethernetSize = 14
	tcpSize      = 20
)

func name(protocol layers.IPProtocol) string {
	if protocol == layers.IPProtocolTCP {
		return "tcp"
	}
	return "udp"
}

func frame(from, to net.HardwareAddr, protocol layers.IPProtocol, source, destination netip.AddrPort) []byte {
	return rig.NewHeaders(from, to, source.Addr(), destination.Addr(), protocol).
		Frame(transport(protocol, source.Port(), destination.Port()), gopacket.Payload(make([]byte, payloadSize)))
}

// Control bits of a segment.
const (
	flagSYN  = 0x02
	flagRST  = 0x04
	flagACK  = 0x10
	flagsFIN = 0x01 | flagACK
)

// withFlags is a segment with other control bits.
func withFlags(frame []byte, flags byte) []byte {
	frame = slices.Clone(frame)
	frame[len(frame)-payloadSize-tcpSize+13] = flags // in the TCP header, which is the last
	return frame
}

func transport(protocol layers.IPProtocol, source, destination uint16) gopacket.SerializableLayer {
	switch protocol {
	case layers.IPProtocolUDP:
		return &layers.UDP{SrcPort: layers.UDPPort(source), DstPort: layers.UDPPort(destination)}
	case layers.IPProtocolICMPv4:
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: source}
	case layers.IPProtocolICMPv6: // its identifier is the beginning of the payload
		return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	}
	return &layers.TCP{SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination), ACK: true, Window: 1024}
}

func arp(from, to net.HardwareAddr) []byte {
	return rig.Serialize(
		&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType:          layers.LinkTypeEthernet,
			Protocol:          layers.EthernetTypeIPv4,
			HwAddressSize:     6,
			ProtAddressSize:   4,
			Operation:         layers.ARPReply,
			SourceHwAddress:   from,
			SourceProtAddress: net.IPv4(10, 4, 0, 1).To4(),
			DstHwAddress:      to,
			DstProtAddress:    net.IPv4(10, 4, 0, 100).To4(),
		})
}
