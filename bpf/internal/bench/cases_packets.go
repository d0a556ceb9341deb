// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"

	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	portFragments = 6300
	// notFirst is what a fragment counts as of whose packet nobody knows the ports.
	notFirst = bpf.DatapathEventEVENT_UNPARSED_FRAGMENT

	fragmentOffset = 8 // of later ones, in units of eight bytes
)

// Identifications of packets: each case has its own.
const (
	idFirst = 1 + iota
	idLater
	idUnknown
)

// fragmentCases are those of a datagram in pieces, of which only the first one has ports.
func (b *bench) fragmentCases(e endpoints) {
	limited := func(l limit) limit {
		if e.family == "ipv6" {
			return extended
		}
		return l.boundOnly()
	}
	at := b.enterFlow(e, udp, portFragments, replication)
	out, in := b.out(e, udp, portFragments, production), b.in(e, udp, portFragments, replication)
	first := b.moved(e, "egress redirect: udp, first fragment", noting.boundOnly(), production, fragment(e, out, idFirst, 0))
	isMoved := first.prove
	first.prove = func(c *testCase) error {
		return errors.Join(isMoved(c), c.other(fragment(e, out, idFirst, fragmentOffset)).checkVerdict(1))
	}
	later := b.moved(e, "egress redirect: udp, later fragment", limited(fragmented), production,
		fragment(e, out, idLater, fragmentOffset))
	later.prepare = func() error {
		return errors.Join(later.other(fragment(e, out, idLater, 0)).checkVerdict(1), b.keepFragments())
	}
	b.egressAnew(e, "egress pass: udp, later fragment of an unknown packet", limited(redirect), production,
		fragment(e, out, idUnknown, fragmentOffset)).prove = counts(notFirst, 1000)
	b.ingress(e, "ingress refresh: udp, first fragment", limited(refresh), replication, fragment(e, in, idFirst, 0)).
		prove = at.notes(isActive)
	b.ingress(e, "ingress pass: udp, later fragment", limited(pass), replication, fragment(e, in, idLater, fragmentOffset)).
		prove = counts(notFirst, 1000)
}

// other is the same case of another frame.
func (c *testCase) other(frame []byte) *testCase {
	other := *c
	other.frame = frame
	return &other
}

// keepFragments has what is known of fragments last while this is measured.
func (b *bench) keepFragments() error {
	known, err := b.datapath.KnownFragments()
	for key, fragment := range known {
		fragment.Seen = b.now + lasting
		err = errors.Join(err, b.datapath.DatapathMaps.Fragments.Put(key, fragment))
	}
	return err
}

// fragment makes a frame a piece of the packet with this identification, the first one where the offset
// is 0. What a later one carries does not matter.
func fragment(e endpoints, frame []byte, identification, offset uint16) []byte {
	if e.family == "ipv6" {
		return fragmentV6(frame, identification, offset)
	}
	const moreFragments, idAt, offsetAt = 0x2000, ethernetSize + 4, ethernetSize + 6
	frame = slices.Clone(frame)
	binary.BigEndian.PutUint16(frame[idAt:], identification)
	if offset == 0 {
		offset = moreFragments
	}
	binary.BigEndian.PutUint16(frame[offsetAt:], offset)
	return frame
}

// fragmentV6 puts an extension header between the IPv6 header and what follows it.
func fragmentV6(frame []byte, identification, offset uint16) []byte {
	const lengthAt, nextHeaderAt, headerSize, ipSize = ethernetSize + 4, ethernetSize + 6, 8, 40
	const moreFragments = 1
	offset <<= 3
	if offset == 0 {
		offset = moreFragments
	}
	header := []byte{frame[nextHeaderAt], 0}
	header = binary.BigEndian.AppendUint16(header, offset)
	header = binary.BigEndian.AppendUint32(header, uint32(identification))
	frame = slices.Insert(slices.Clone(frame), ethernetSize+ipSize, header...)
	frame[nextHeaderAt] = byte(layers.IPProtocolIPv6Fragment)
	binary.BigEndian.PutUint16(frame[lengthAt:], binary.BigEndian.Uint16(frame[lengthAt:])+headerSize)
	return frame
}

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
