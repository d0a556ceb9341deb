// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf/internal/model"
	"replypath/bpf/internal/rig"
)

const (
	ethernetSize = 14
	ipv4Size     = 20
	ipv6Size     = 40
	tcpSize      = 20
)

// shape is what stands around the transport header.
type shape int

const (
	plain shape = iota
	someOptions
	firstFragment
	laterFragment
	lastFragment
	atomicFragment
	sourceRoute
	manyHeaders
	paddedFrame

	shapes
)

// damage is what is wrong with a packet.
type damage int

const (
	none damage = iota
	cutFrame
	cutPacket
	wrongLength
	wrongByte

	damages
)

func (p Packet) isV4() bool { return networks[p.family].family == 4 }

// ends of a packet.
func (p Packet) ends(k kind) (from, to netip.Addr, fromPort, toPort uint16) {
	n := networks[p.family]
	from, to = n.peers[p.peer], n.selves[p.self]
	fromPort, toPort = peerPorts[p.peerPort], selfPorts[p.selfPort]
	if k == outbound {
		from, to, fromPort, toPort = to, from, toPort, fromPort
	}
	return from, to, fromPort, toPort
}

// numbers are what TCP conversations of a tuple begin with.
type isns func(peer, self netip.AddrPort) (peerISN, ourISN uint32)

// frame builds a packet's frame, as it passes by a device; cut is how long it is
// where it has been cut, else 0.
func (p Packet) frame(k kind, device rig.Device, index int, begin isns) (frame []byte, cut int) {
	from, to, _, _ := p.ends(k)
	h := rig.NewHeaders(p.neighbour.mac(index), device.MAC, from, to, p.ipProtocol())
	switch ethernet := h.Ethernet; {
	case k == outbound:
		ethernet.SrcMAC, ethernet.DstMAC = ethernet.DstMAC, ethernet.SrcMAC
	case p.address == toAnother:
		ethernet.DstMAC = strangerMAC
	case p.address == toAll:
		ethernet.DstMAC = broadcastMAC
	}
	if p.isV4() {
		h.V4.Id = uint16(p.id())
	}
	return p.spoil(p.reshape(h.Frame(p.transport(k, begin)...)), k)
}

// id identifies the fragments of a packet.
func (p Packet) id() uint32 { return 0x1234 + uint32(p.shapeBy>>7) }

// wireLength is how many bytes a packet of several segments is on the wire; 0 for
// others.
func (p Packet) wireLength(frame []byte) uint32 {
	if p.segment == 0 {
		return 0
	}
	segments := (p.payload + int(p.segment) - 1) / int(p.segment)
	return uint32(len(frame) + (segments-1)*(len(frame)-p.payload))
}

func (p Packet) ipProtocol() layers.IPProtocol {
	icmp := [2]layers.IPProtocol{layers.IPProtocolICMPv4, layers.IPProtocolICMPv6}
	switch p.protocol {
	case tcp:
		return layers.IPProtocolTCP
	case udp:
		return layers.IPProtocolUDP
	case sctp:
		return layers.IPProtocolSCTP
	case gre:
		return layers.IPProtocolGRE
	case echo, icmpError:
		return icmp[p.family&1]
	case foreignICMP:
		return icmp[1-p.family&1]
	default:
		return 253
	}
}

func (p Packet) transport(k kind, begin isns) []gopacket.SerializableLayer {
	_, _, from, to := p.ends(k)
	payload := gopacket.Payload(make([]byte, p.payload))
	switch p.protocol {
	case tcp:
		header := &layers.TCP{SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to), Window: 1024}
		header.Seq, header.Ack = p.sequence(k, begin)
		header.FIN, header.SYN = p.flags&model.FlagFIN != 0, p.flags&model.FlagSYN != 0
		header.RST, header.PSH = p.flags&model.FlagRST != 0, p.flags&model.FlagPSH != 0
		header.ACK = p.flags&model.FlagACK != 0
		if header.SYN {
			header.Padding = tcpOptions[p.options]
		}
		return []gopacket.SerializableLayer{header, payload}
	case udp:
		return []gopacket.SerializableLayer{&layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}, payload}
	case sctp:
		return []gopacket.SerializableLayer{
			&layers.SCTP{SrcPort: layers.SCTPPort(from), DstPort: layers.SCTPPort(to), VerificationTag: 7}, payload,
		}
	case echo:
		return []gopacket.SerializableLayer{gopacket.Payload(p.echo(k)), payload}
	case icmpError, foreignICMP:
		message := make([]byte, 8)
		message[0], message[1] = icmpTypes[p.family&1][p.seq.offset&3], p.flags>>3
		return []gopacket.SerializableLayer{gopacket.Payload(message), gopacket.Payload(p.quote(begin))}
	default:
		return []gopacket.SerializableLayer{gopacket.Payload(make([]byte, 8)), payload}
	}
}

// icmpTypes are errors, and some that are none.
var icmpTypes = [2][4]byte{{3, 11, 12, 5}, {1, 4, 3, 137}}

// quote is the packet that an ICMP error is about: the same one on its way in,
// but for the protocol, and perhaps cut.
func (p Packet) quote(begin isns) []byte {
	route := p.quotesRoute()
	p.protocol = [...]protocol{tcp, udp, udp, echo, sctp, gre, otherProtocol, icmpError}[p.flags&7]
	p.flags = 0
	if p.protocol == icmpError {
		return []byte{0x45}
	}
	p.damage, p.tag = none, nil
	if route {
		p.shape = sourceRoute
	}
	frame, _ := p.frame(inbound, rig.Device{MAC: strangerMAC}, 0, begin)
	packet := frame[ethernetSize:]
	switch {
	case p.payload > 100:
		return packet[:min(len(packet), 128)]
	case p.options >= 12:
		return packet[:len(packet)*p.options/16]
	}
	return packet
}

// quotesRoute says whether an error is about a routing header.
func (p Packet) quotesRoute() bool {
	return p.protocol == icmpError && p.options >= 8 && p.options < 12
}

// tcpOptions are what a SYN carries: mostly a segment size.
var tcpOptions = [16][]byte{
	nil,
	{2, 4, 5, 180},
	{2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7},
	{2, 4, 0x22, 0xc4, 1, 3, 3, 7, 1, 1, 4, 2},
	{4, 2, 1, 1, 2, 4, 5, 180},
	{1, 2, 4, 5, 180, 1, 1, 1},
	{1, 1, 1, 2, 4, 5, 180, 0},
	append(slices.Repeat([]byte{1}, 36), 2, 4, 5, 180),
	append([]byte{2, 4, 5, 180, 29, 16}, make([]byte, 14)...), // signed (RFC 5925)
	append([]byte{1, 1, 19, 18}, append(make([]byte, 16), 2, 4, 5, 180)...),
	{2, 4, 5, 180, 2, 4, 5, 180},
	{2, 3, 5, 1},
	{4, 2, 0, 0, 2, 4, 5, 180},
	{2, 4, 5, 180, 3, 0, 1, 1},
	{2, 4, 5, 180, 3, 255, 1, 1},
	{2, 4, 0, 100},
}

// sequence numbers of a segment.
func (p Packet) sequence(k kind, begin isns) (seq, ack uint32) {
	n := networks[p.family]
	seqBase, ackBase := begin(netip.AddrPortFrom(n.peers[p.peer], peerPorts[p.peerPort]),
		netip.AddrPortFrom(n.selves[p.self], selfPorts[p.selfPort]))
	if k == outbound {
		seqBase, ackBase = ackBase, seqBase
	}
	return p.seq.from(seqBase), p.ack.from(ackBase)
}

func (n number) from(base uint32) uint32 {
	if n.plain {
		return n.offset
	}
	return base + n.offset
}

// echo is an echo request of the peer's or the host's answer to it; with FIN, of
// all flags, it is the other way round.
func (p Packet) echo(k kind) []byte {
	request, reply := byte(8), byte(0)
	if !p.isV4() {
		request, reply = 128, 129
	}
	message := make([]byte, 8)
	message[0] = request
	if (k == outbound) != (p.flags&model.FlagFIN != 0) {
		message[0] = reply
	}
	binary.BigEndian.PutUint16(message[4:], echoIdentifier+uint16(p.peerPort))
	return message
}

// reshape puts options or extension headers into a frame.
func (p Packet) reshape(frame []byte) []byte {
	switch {
	case p.shape == plain:
		return frame
	case p.shape == paddedFrame:
		return append(frame, make([]byte, p.shapeBy%32)...)
	case p.isV4():
		return p.reshapeIPv4(frame)
	default:
		return p.reshapeIPv6(frame)
	}
}

func (p Packet) reshapeIPv4(frame []byte) []byte {
	ip := frame[ethernetSize:]
	switch p.shape {
	case someOptions, manyHeaders, sourceRoute:
		words := 1 + p.shapeBy%10
		options := slices.Repeat([]byte{1}, words*4)
		if p.shape == sourceRoute && words > 1 { // a loose one with addresses left (RFC 791)
			options[0], options[1], options[2] = 131, 7, 4
		}
		ip[0] += byte(words)
		binary.BigEndian.PutUint16(ip[2:], binary.BigEndian.Uint16(ip[2:])+uint16(words*4))
		return slices.Insert(frame, ethernetSize+ipv4Size, options...)
	case firstFragment:
		binary.BigEndian.PutUint16(ip[6:], 0x2000)
	case laterFragment:
		binary.BigEndian.PutUint16(ip[6:], 0x2001+uint16(p.shapeBy))
	case lastFragment:
		binary.BigEndian.PutUint16(ip[6:], 0x0001+uint16(p.shapeBy))
	case atomicFragment:
		binary.BigEndian.PutUint16(ip[6:], 0x4000)
	}
	return frame
}

// Extension headers; the first byte is filled in later.
var (
	hopByHop     = []byte{0, 0, 1, 4, 0, 0, 0, 0}
	destinations = []byte{0, 0, 1, 4, 0, 0, 0, 0}
	longOptions  = append([]byte{0, 2, 1, 20}, make([]byte, 20)...)
	usedRoute    = append([]byte{0, 2, 4, 0}, make([]byte, 20)...)
	route        = append([]byte{0, 2, 4, 1}, make([]byte, 20)...)
)

func (p Packet) reshapeIPv6(frame []byte) []byte {
	fragment := func(bits uint16) rig.Extension {
		body := []byte{0, 0, byte(bits >> 8), byte(bits)}
		return rig.Extension{Kind: layers.IPProtocolIPv6Fragment, Body: binary.BigEndian.AppendUint32(body, p.id())}
	}
	optional := []rig.Extension{{Kind: layers.IPProtocolIPv6HopByHop, Body: hopByHop},
		{Kind: layers.IPProtocolIPv6Destination, Body: destinations}, {Kind: layers.IPProtocolIPv6Destination, Body: longOptions},
		{Kind: layers.IPProtocolIPv6Routing, Body: usedRoute}}
	var list []rig.Extension
	for i, e := range optional {
		if p.shapeBy>>i&1 != 0 {
			list = append(list, e)
		}
	}
	switch p.shape {
	case firstFragment:
		list = append(list, fragment(1))
	case laterFragment:
		list = append(list, fragment(9+uint16(p.shapeBy)<<3))
	case lastFragment:
		list = append(list, fragment(8+uint16(p.shapeBy)<<3))
	case atomicFragment:
		list = append(list, fragment(0))
	case sourceRoute:
		list = append(list, rig.Extension{Kind: layers.IPProtocolIPv6Routing, Body: route})
	case manyHeaders:
		list = slices.Repeat([]rig.Extension{optional[1+p.shapeBy&1]}, 1+p.shapeBy%40)
	}
	return rig.Extend(frame, list...)
}

// spoil damages a frame.
func (p Packet) spoil(frame []byte, k kind) (spoiled []byte, cut int) {
	lengthAt, header := ethernetSize+2, ipv4Size
	if !p.isV4() {
		lengthAt, header = ethernetSize+4, ipv6Size
	}
	smallest := ethernetSize + header // the kernel runs no program on less
	switch p.damage {
	case cutFrame:
		return frame, ethernetSize + p.damageAt%(len(frame)-ethernetSize)
	case cutPacket:
		length := smallest + p.damageAt%(len(frame)-smallest+1)
		frame = frame[:length]
		length -= ethernetSize
		if !p.isV4() {
			length -= ipv6Size
		}
		binary.BigEndian.PutUint16(frame[lengthAt:], uint16(length))
	case wrongLength:
		length := binary.BigEndian.Uint16(frame[lengthAt:])
		if p.damageAt&3 == 0 {
			length = uint16(p.damageAt)
		} else {
			length += uint16(int8(p.damageBy))
		}
		binary.BigEndian.PutUint16(frame[lengthAt:], length)
	case wrongByte: // anywhere in the first headers
		value := p.damageBy
		if k == outbound {
			value &^= model.FlagRST // no kernel sends it with SYN
		}
		frame[12+p.damageAt%min(80, len(frame)-12)] = value
	}
	return frame, 0
}
