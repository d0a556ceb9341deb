// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// ipHeaders returns the Ethernet and IP headers of a packet.
func ipHeaders(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, protocol layers.IPProtocol) (ethernet, ip gopacket.SerializableLayer) {
	header := &layers.Ethernet{SrcMAC: fromMAC, DstMAC: toMAC, EthernetType: layers.EthernetTypeIPv4}
	if from.Is4() {
		return header, &layers.IPv4{
			Version: 4, TTL: 64, Id: 4711, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
		}
	}
	header.EthernetType = layers.EthernetTypeIPv6
	return header, &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
	}
}

// segmentFrame puts a TCP segment into a frame.
func segmentFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, tcp *layers.TCP) []gopacket.SerializableLayer {
	ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolTCP)
	_ = tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, tcp, gopacket.Payload("")}
}

// echoFrame puts an echo request or reply into a frame.
func echoFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, request bool) []gopacket.SerializableLayer {
	const id, sequence = 77, 1
	if from.Is4() {
		kind := layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0)
		if request {
			kind = layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0)
		}
		ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv4)
		return []gopacket.SerializableLayer{ethernet, ip, &layers.ICMPv4{TypeCode: kind, Id: id, Seq: sequence}}
	}
	kind := layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoReply, 0)
	if request {
		kind = layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)
	}
	ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: kind}
	_ = icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, icmp, &layers.ICMPv6Echo{Identifier: id, SeqNumber: sequence}}
}
