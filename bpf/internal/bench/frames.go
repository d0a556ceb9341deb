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
	quotedSize   = 8 // what errors quote behind the IP header
)

// ipSize is the size of an IP header.
func (e endpoints) ipSize() int {
	if e.family == "ipv6" {
		return 40
	}
	return 20
}

func name(protocol layers.IPProtocol) string {
	if protocol == layers.IPProtocolTCP {
		return "tcp"
	}
	return "udp"
}

func frame(from, to net.HardwareAddr, protocol layers.IPProtocol, source, destination netip.AddrPort, payload int) []byte {
	return frameOf(from, to, protocol, source.Addr(), destination.Addr(), func(ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{
			transport(protocol, ip, source.Port(), destination.Port()), gopacket.Payload(make([]byte, payload)),
		}
	})
}

// frameOf is a frame with these addresses, and with what rest makes behind the IP header.
func frameOf(from, to net.HardwareAddr, protocol layers.IPProtocol, source, destination netip.Addr,
	rest func(gopacket.NetworkLayer) []gopacket.SerializableLayer) []byte {
	ethernet := &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if source.Is4() {
		header := &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: source.AsSlice(), DstIP: destination.AsSlice()}
		ip, network = header, header
	} else {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		header := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: source.AsSlice(), DstIP: destination.AsSlice()}
		ip, network = header, header
	}
	return must(rig.Serialize(ethernet, append([]gopacket.SerializableLayer{ip}, rest(network)...)...))
}

// Control bits of a segment.
const (
	flagSYN     = 0x02
	flagRST     = 0x04
	flagACK     = 0x10
	flagsSYNACK = flagSYN | flagACK
	flagsFIN    = 0x01 | flagACK
)

// withFlags is a segment with other control bits.
func withFlags(frame []byte, flags byte) []byte {
	frame = slices.Clone(frame)
	frame[len(frame)-payloadSize-tcpSize+13] = flags // in the TCP header, which is the last
	return frame
}

func transport(protocol layers.IPProtocol, network gopacket.NetworkLayer, source, destination uint16) gopacket.SerializableLayer {
	switch protocol {
	case layers.IPProtocolUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(source), DstPort: layers.UDPPort(destination)}
		udp.SetNetworkLayerForChecksum(network)
		return udp
	case layers.IPProtocolICMPv4:
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: source}
	case layers.IPProtocolICMPv6:
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
		icmp.SetNetworkLayerForChecksum(network)
		return icmp // its identifier is the beginning of the payload
	}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination), ACK: true, Window: 1024}
	tcp.SetNetworkLayerForChecksum(network)
	return tcp
}

func arp(from, to net.HardwareAddr) []byte {
	return must(rig.Serialize(
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
		}))
}

// must is for frames made of constants: they can be built or the program is wrong.
func must(frame []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return frame
}
