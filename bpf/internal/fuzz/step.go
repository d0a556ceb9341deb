// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"slices"

	"replypath/bpf/internal/model"
)

// Bytes of a step's record.
const (
	atKind     = 0
	atPeers    = 1
	atWay      = 2
	atPorts    = 3
	atFlags    = 4
	atSeq      = 5
	atAck      = 6
	atPayload  = 7
	atShape    = 8
	atShapeBy  = 9
	atTag      = 10
	atSegments = 11
	atDamage   = 12
	atDamageAt = 13
	atDamageBy = 15
)

// Step is one thing that happens.
type Step struct {
	Kind   kind
	Packet Packet
	Amount int // what else the kind needs
	Device int
}

type kind int

const (
	inbound kind = iota
	outbound
	age
	toggleLink
	toggleGateway
	replaceGateway
	switchMode
	toggleDevice
	endGrace
	decide
)

func (k kind) String() string {
	return [...]string{"in", "out", "age", "toggle link", "toggle gateway", "replace gateway", "switch mode", "toggle device", "end of the grace", "decide"}[k]
}

// Packet is a description of a packet by indexes into what world.go lists.
type Packet struct {
	family     int // of networks
	peer, self int
	neighbour  neighbour
	address    address // of the frame
	protocol   protocol
	peerPort   int
	selfPort   int
	flags      uint8
	seq, ack   number
	options    int // of a SYN
	payload    int
	shape      shape
	shapeBy    int
	tag        *uint16
	segment    uint32 // GSO size
	segments   uint32
	forwarded  bool // of what leaves: it came in by cameBy
	damage     damage
	damageAt   int
	damageBy   byte
	fate       fate
}

// neighbour is who is at the other end of the wire.
type neighbour int

const (
	router neighbour = iota
	secondRouter
	onLinkHost
	group
	nobody
)

// address is to whom a frame that comes in is sent.
type address int

const (
	toUs address = iota
	toAnother
	toAll
)

type protocol int

const (
	tcp protocol = iota
	udp
	echo
	sctp
	gre
	icmpError
	foreignICMP
	otherProtocol
)

func (p protocol) String() string {
	return [...]string{"tcp", "udp", "echo", "sctp", "gre", "icmp", "foreign icmp", "other"}[p]
}

// number is a sequence number: an offset from where the conversation stands, or
// a plain number.
type number struct {
	offset uint32
	plain  bool
}

// fate is what becomes of a packet that is moved.
type fate int

const (
	arrives fate = iota
	arrivesTwice
	isLost
)

// decodeSteps reads a record: one step, or a few that hang together.
func decodeSteps(r record, bare bool) []Step {
	s := Step{Device: int(r[atWay]&3) % devices, Packet: decodePacket(r), Amount: int(r[atPeers])}
	if bare {
		s.Packet.family += 2
	}
	switch k := r[atKind]; {
	case k < 96:
		s.Kind = inbound
		if s.Packet.quotesRoute() {
			s.Packet.shape = sourceRoute // what the error is about: errors that come in are nothing
		}
	case k < 192:
		s.Kind = outbound
		if s.Packet.flags&model.FlagRST != 0 {
			s.Packet.flags &^= model.FlagSYN // no kernel sends both
		}
		if s.Packet.protocol == icmpError {
			s.Packet.damage = none // what stands behind the packet is read as its quote
		}
	case k < 212:
		return handshake(s, int(r[atKind]>>1)%devices)
	case k < 224:
		return slowHandshake(s, int(r[atKind]>>1)%devices, r)
	case k < 228:
		s.Kind = age
	case k < 229:
		return roaming(s, int(r[atWay]>>2)%devices)
	case k < 230:
		return monologue(s, int(r[atWay]>>2)%devices)
	case k < 234:
		s.Kind = decide
	case k < 238:
		s.Kind = toggleLink
	case k < 240:
		s.Kind = toggleDevice
	case k < 245:
		s.Kind = toggleGateway
	case k < 250:
		s.Kind = replaceGateway
	case k < 253:
		s.Kind = switchMode
	case k < 254:
		return olderConversation(s, int(r[atKind])%devices)
	default:
		return answeredConnection(s, int(r[atWay]>>2)%devices)
	}
	return []Step{s}
}

// olderConversation is what is seen of a conversation of datagrams that is older than what is recorded:
// the host's next one by another device, then the peer's.
func olderConversation(s Step, other int) []Step {
	p := s.Packet.withoutConnection()
	return []Step{out(other, p), {Kind: age}, {Kind: endGrace}, in(s.Device, p)}
}

// roaming is what is seen of a peer without a connection that comes by another device from then on.
func roaming(s Step, other int) []Step {
	p := s.Packet.withoutConnection()
	there := in(other, p)
	return []Step{in(s.Device, p), out(other, p), there, there, {Kind: age}, {Kind: age}, there, out(s.Device, p)}
}

// monologue is what is seen of a conversation in which only the host speaks, for longer than a silent flow lives.
func monologue(s Step, other int) []Step {
	p := s.Packet.withoutConnection()
	speaks, later := out(other, p), Step{Kind: age, Amount: 3}
	return []Step{in(s.Device, p), in(s.Device, p), speaks, later, speaks, later, speaks, in(other, p)}
}

func (p Packet) withoutConnection() Packet {
	if p.protocol == tcp {
		p.protocol = udp
	}
	return p
}

// answeredConnection is what is seen of a connection of the host's, which the kernel sends by the other device, while
// answers come: the later one shows that they do.
func answeredConnection(s Step, other int) []Step {
	p := s.Packet
	p.protocol, p.fate, p.neighbour, p.address, p.flags = tcp, arrives, router, toUs, model.FlagACK
	syn := p
	syn.flags = model.FlagSYN
	return []Step{out(other, syn), in(s.Device, p), {Kind: age}, in(s.Device, p), out(other, p), out(other, p)}
}

// handshake is a whole one, whose SYN-ACK the kernel sends by the other device.
func handshake(s Step, other int) []Step {
	p := s.Packet
	p.protocol, p.payload, p.segment, p.segments = tcp, 0, 0, 0
	syn, synAck, ack := p, p, p
	syn.flags, syn.seq = model.FlagSYN, number{}
	synAck.flags, synAck.seq, synAck.ack = model.FlagSYN|model.FlagACK, number{}, number{offset: 1}
	ack.flags, ack.seq, ack.ack = model.FlagACK, number{offset: 1}, number{offset: 1}
	return []Step{in(s.Device, syn), out(other, synAck), in(s.Device, ack)}
}

// slowHandshake is one whose SYN-ACK is sent again, and perhaps its first data: by another way.
func slowHandshake(s Step, other int, r record) []Step {
	later, p := Step{Kind: age}, s.Packet
	steps := handshake(s, other)
	syn, synAck, ack := steps[0], steps[1], steps[2]
	p.protocol, p.payload, p.segment, p.segments, p.flags = tcp, 100, 0, 0, model.FlagACK
	p.seq, p.ack = number{offset: 1}, number{offset: 1}
	data := out(other, p)
	steps = []Step{syn, synAck}
	for range r[atDamageBy] & 3 {
		steps = append(steps, later, synAck)
	}
	if r[atPayload]&16 != 0 {
		steps = slices.Insert(steps, 2, syn)
	}
	steps = append(steps, ack)
	for range r[atDamageBy] >> 2 & 3 {
		steps = append(steps, data, later, data)
	}
	acked := ack
	acked.Packet.ack = number{offset: 101}
	return append(steps, acked)
}

func in(device int, p Packet) Step  { return Step{Kind: inbound, Device: device, Packet: p} }
func out(device int, p Packet) Step { return Step{Kind: outbound, Device: device, Packet: p} }

func decodePacket(r record) Packet {
	p := Packet{
		family:    int(r[atPeers] & 1),
		peer:      int(r[atPeers] >> 1 & 7),
		self:      int(r[atPeers] >> 4 & 15),
		protocol:  protocols[r[atPorts]&15],
		peerPort:  int(r[atPorts] >> 4 & 1),
		selfPort:  int(r[atPorts] >> 5),
		flags:     decodeFlags(r[atFlags]),
		seq:       numbers[r[atSeq]&15],
		ack:       numbers[r[atAck]&15],
		options:   int(r[atAck] >> 4),
		payload:   payloads[r[atPayload]&7],
		forwarded: r[atPayload]&8 != 0,
		shapeBy:   int(r[atShapeBy]),
		damageAt:  int(r[atDamageAt]) | int(r[atDamageAt+1])<<8,
		damageBy:  r[atDamageBy],
	}
	p.neighbour = neighbours[r[atWay]>>2&15]
	p.address = map[byte]address{2: toAnother, 3: toAll}[r[atWay]>>6&3*(r[atSeq]>>7)]
	if r[atShape] >= 128 {
		p.shape = shape(1 + int(r[atShape])%int(shapes-1))
	}
	if r[atTag] >= 192 {
		tag := []uint16{0x0001, 0x0fff, 0xe064, 0x0000, 0xe000}[r[atTag]%5]
		p.tag = &tag
	}
	if r[atDamage] >= 192 {
		p.damage = damage(1 + int(r[atDamage])%int(damages-1))
	}
	segment := [...]uint32{50, 500, 1380, 1460}[r[atSegments]&3]
	if r[atSegments] >= 192 && p.mayBeSegmented() && p.payload > int(segment) {
		p.segment = segment
		if r[atSegments]&4 == 0 { // a virtual machine's packet does not say how many
			p.segments = (uint32(p.payload) + segment - 1) / segment
		}
	}
	p.fate = map[byte]fate{14: arrivesTwice, 15: isLost}[r[atDamageBy]&15]
	return p
}

// mayBeSegmented says whether a kernel makes such packets larger than they leave.
func (p Packet) mayBeSegmented() bool {
	return (p.protocol == tcp || p.protocol == udp) && p.damage == none &&
		(p.shape == plain || p.shape == someOptions || p.shape == manyHeaders)
}

var (
	protocols = [16]protocol{tcp, tcp, tcp, tcp, tcp, tcp, tcp, udp, udp, udp, udp, echo, echo, sctp, gre, icmpError}

	neighbours = [16]neighbour{
		router, router, router, router, router, router, router, router, router,
		secondRouter, secondRouter, secondRouter, onLinkHost, onLinkHost, group, nobody,
	}

	numbers = [16]number{
		{offset: 1}, {offset: 1}, {offset: 1}, {offset: 0}, {offset: 2}, {offset: 11}, {offset: 101}, {offset: 1001},
		{offset: 1<<32 - 1}, {offset: 60000}, {offset: 1<<32 - 60000}, {offset: 70000}, {offset: 1 << 20}, {offset: 1 << 31},
		{plain: true}, {plain: true, offset: 1},
	}

	payloads = [8]int{0, 0, 1, 10, 100, 1000, 1400, 2900}
)

// decodeFlags gives the usual combinations most of the room.
func decodeFlags(b byte) uint8 {
	const fin, syn, rst, psh, ack = model.FlagFIN, model.FlagSYN, model.FlagRST, model.FlagPSH, model.FlagACK
	usual := [...]uint8{ack, syn, syn | ack, ack, ack | psh, ack | fin, rst | ack, rst}
	if b < 224 {
		return usual[b%8]
	}
	return b & 31
}

// Ages to which things grow: sums of them stay clear of every limit, for as long
// as a program runs.
var ages = [...]uint32{7, 7, 35, 126, 182, 3605, 86401}

// toldByKernel and toldByLoader tell whose word of a link changes: both, or without a loader, or a kernel that
// changed its mind before it was asked, one.
func (s Step) toldByKernel() bool { return s.Amount%4 != 0 }
func (s Step) toldByLoader() bool { return s.Amount%4 != 1 }

func (s Step) String() string {
	if s.Kind == inbound || s.Kind == outbound {
		return fmt.Sprintf("%-3s eth%d %s", s.Kind, s.Device, s.Packet)
	}
	return fmt.Sprintf("%s, amount %d, eth%d", s.Kind, s.Amount, s.Device)
}

func (p Packet) String() string {
	type fields Packet
	n := networks[p.family]
	text := fmt.Sprintf("%s, peer %s:%d self %s:%d %+v", p.protocol, n.peers[p.peer], peerPorts[p.peerPort], n.selves[p.self],
		selfPorts[p.selfPort], fields(p))
	if p.tag != nil {
		text += fmt.Sprintf(" tag %#04x", *p.tag)
	}
	return text
}
