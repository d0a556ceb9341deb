// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net"
	"slices"

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
func (b *bench) echoCases(e endpoints) {
	protocol, table := e.echo(), b.datapath.Connectionless
	flow := b.flow(e, protocol, 0, replication)
	fresh := flow
	flow.Tuple.PeerPort, fresh.Tuple.PeerPort = rig.Port(echoKnown), rig.Port(echoNew)
	at := b.enter(table, flow)
	in, out := b.in(e, protocol, 0, replication), b.out(e, protocol, 0, production)
	b.ingress(e, "ingress refresh: echo request", refresh, replication, asEcho(e, in, echoKnown, false)).
		prove = at.notes(isActive)
	request := b.ingress(e, "ingress: first echo request, there is room", handshake, replication, asEcho(e, in, echoNew, false))
	request.before = func() asm.Instructions { return undo(b.placeOf(table, fresh).without()) }
	request.prove = counts(admittedConnectionless, 1000)
	b.moved(e, "egress redirect: echo reply", reply, production, asEcho(e, out, echoKnown, true))
	b.egressAnew(e, "egress pass: echo request of the host", pass, production, asEcho(e, out, echoOwn, false)).prove = countsNothing
}

// asEcho gives an echo request this identifier, and makes it a reply.
func asEcho(e endpoints, frame []byte, identifier uint16, reply bool) []byte {
	frame = slices.Clone(frame)
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
func (b *bench) errorCases(e endpoints) {
	mac := b.device(production).MAC
	b.moved(e, "egress redirect: icmp error about a flow", quoting, production,
		portUnreachable(e, mac, routerMAC, b.in(e, udp, portQuoted, replication)))
	b.egressAnew(e, "egress pass: icmp error about no flow", quoting, production,
		portUnreachable(e, mac, routerMAC, b.in(e, udp, portQuoted+1, replication))).prove = countsNothing
	peer := e
	peer.peer, peer.self = e.self, e.peer
	b.ingress(e, "ingress pass: icmp error about a flow", pass, replication, portUnreachable(peer, gatewayMAC,
		b.device(replication).MAC, b.out(e, udp, portQuoted, replication))).prove = countsNothing
	b.enterFlow(e, udp, portQuoted, replication)
}

// portUnreachable is the error of a host about a frame of its peer.
func portUnreachable(e endpoints, from, to net.HardwareAddr, about []byte) []byte {
	quote := gopacket.Payload(about[ethernetSize:][:e.ipSize()+quotedSize])
	return frameOf(from, to, e.echo(), e.self, e.peer, func(ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
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
