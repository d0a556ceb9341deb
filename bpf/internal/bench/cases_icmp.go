// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net"

	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf/internal/rig"
)

const (
	portQuoted = 6400
	// Identifiers of echo requests, which stand in for the peer's port.
	echoKnown, echoNew, echoOwn = 0x5050, 0x5051, 0x5052
)

// echoCases are those of echo requests and their replies.
func (r *rare) echoCases(e endpoints) ([]testCase, error) {
	first, second := r.device(production).MAC, r.device(replication).MAC
	protocol := echoProtocol(e)
	flow, err := r.flow(e, protocol, 0)
	if err != nil {
		return nil, err
	}
	fresh := flow
	flow.Tuple.PeerPort, fresh.Tuple.PeerPort = rig.Port(echoKnown), rig.Port(echoNew)
	table := r.datapath.Connectionless
	if err := r.datapath.AddFlow(table, flow); err != nil {
		return nil, err
	}
	next := r.ingress("ingress refresh: echo request, "+e.family, boundRefresh, aimRefresh, replication,
		asEcho(e, inbound(e, protocol, 0, second), echoKnown, false))
	next.prove = r.notes(table, flow, isActive)
	request := r.ingress("ingress: first echo request, there is room, "+e.family, boundHandshake, 0, replication,
		asEcho(e, inbound(e, protocol, 0, second), echoNew, false))
	request.before = func() asm.Instructions { return undo(r.placeOf(table, fresh).without()) }
	request.prove = r.counts(admittedConnectionless)
	reply := r.moved("egress redirect: echo reply, "+e.family, boundRedirect, aimRedirect, production,
		asEcho(e, outbound(e, protocol, 0, first), echoKnown, true))
	reply.recorded = recordedRedirect
	asked := r.egress("egress pass: echo request of the host, "+e.family, boundPass, aimPass, production,
		asEcho(e, outbound(e, protocol, 0, first), echoOwn, false))
	asked.prove = r.countsNothing
	return []testCase{next, request, reply, asked}, nil
}

// asEcho gives an echo request this identifier, and makes it a reply.
func asEcho(e endpoints, frame []byte, identifier uint16, reply bool) []byte {
	header := frame[ethernetSize+e.ipSize():]
	binary.BigEndian.PutUint16(header[4:], identifier)
	if reply && e.family == "ipv4" {
		header[0] = layers.ICMPv4TypeEchoReply
	} else if reply {
		header[0] = layers.ICMPv6TypeEchoReply
	}
	return frame
}

// errorCases are those of ICMP errors, which quote the packet that they are about.
func (r *rare) errorCases(e endpoints) ([]testCase, error) {
	first, second := r.device(production).MAC, r.device(replication).MAC
	if _, _, err := r.enter(e, layers.IPProtocolUDP, portQuoted, replication); err != nil {
		return nil, err
	}
	about := inbound(e, layers.IPProtocolUDP, portQuoted, second)
	sent := r.moved("egress redirect: icmp error about a flow, "+e.family, boundQuote, 0, production,
		portUnreachable(e, first, routerMAC, about))
	other := r.egress("egress pass: icmp error about no flow, "+e.family, boundQuote, 0, production,
		portUnreachable(e, first, routerMAC, inbound(e, layers.IPProtocolUDP, portQuoted+1, second)))
	other.prove = r.countsNothing
	peer := e
	peer.peer, peer.self = e.self, e.peer
	received := r.ingress("ingress pass: icmp error about a flow, "+e.family, boundPass, aimPass, replication,
		portUnreachable(peer, gatewayMAC, second, outbound(e, layers.IPProtocolUDP, portQuoted, second)))
	received.prove = r.countsNothing
	return []testCase{sent, other, received}, nil
}

// portUnreachable is the error of a host about a frame of its peer.
func portUnreachable(e endpoints, from, to net.HardwareAddr, about []byte) []byte {
	quote := gopacket.Payload(about[ethernetSize:][:e.ipSize()+quotedSize])
	return frameOf(from, to, echoProtocol(e), e.self, e.peer, func(ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
		if e.family == "ipv4" {
			return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(
				layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort)}, quote}
		}
		header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(
			layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable)}
		header.SetNetworkLayerForChecksum(ip)
		return []gopacket.SerializableLayer{header, gopacket.Payload{0, 0, 0, 0}, quote}
	})
}
