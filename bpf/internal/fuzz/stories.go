// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"slices"

	"replypath/bpf"
	"replypath/bpf/internal/model"
)

// Stories are programs that raise together whatever packets can raise without sockets and full tables.
func Stories() (all []Program) {
	for family := range networks[:2] {
		p := Packet{family: family}
		all = append(all, unreadable(p), ignored(p), answered(p), pinned(p), byTunnel(p), lost(p), learnt(p))
		all = append(all, conversations(p)...)
		all = append(all, hindered(p)...)
		all = append(all, announced(p)...)
		all = append(all, segmented(p)...)
	}
	return all
}

// StoriesOfSockets are segments that a connection's socket expects, and some that it does not.
func StoriesOfSockets() (all []Program) {
	for family := range networks[:2] {
		for _, peer := range []int{0, strangerPeer} {
			p := Packet{family: family, peer: peer, flags: model.FlagACK, seq: next, ack: next}
			question := in(0, p.with(func(p *Packet) { p.protocol, p.selfPort = udp, wildcardPort }))
			watched := func(s *Setup) { s.repair = bpf.DatapathSourceRepairREPAIR_WATCH }
			all = append(all, program(nil, in(0, p.with(func(p *Packet) { p.seq = far })), in(0, p), question),
				program(watched, question))
		}
	}
	return all
}

const (
	strangerPeer = 4
	excludedPort = 4
	wildcardPort = 5
	toExcluded   = 5 // of exclusions
)

var (
	next = number{offset: 1}
	far  = number{offset: 1 << 31}
)

// program has the plainest setup, and what change makes of it.
func program(change func(*Setup), steps ...Step) Program {
	s := decodeSetup(record{})
	if change != nil {
		change(&s)
	}
	return Program{s, steps}
}

func (p Packet) with(change func(*Packet)) Packet {
	change(&p)
	return p
}

// unreadable packets are cut, of no version of IP, or have more before the transport header than is read.
func unreadable(p Packet) Program {
	return program(nil,
		in(0, p.with(func(p *Packet) { p.damage, p.damageAt = cutFrame, ipv6Size-1 })),
		in(0, p.with(func(p *Packet) { p.damage, p.damageAt, p.damageBy = wrongByte, 2, 0x11 })),
		in(0, p.with(func(p *Packet) { p.shape, p.shapeBy = manyHeaders, 7 })), // as many as are read
		in(0, p.with(func(p *Packet) { p.shape, p.shapeBy = manyHeaders, 8 })),
		in(0, p.with(func(p *Packet) { p.shape, p.shapeBy = manyHeaders, 39 })),
		in(0, p.with(func(p *Packet) { p.shape = laterFragment })),
		in(0, p.with(func(p *Packet) { p.shape = sourceRoute })),
	)
}

// ignored packets begin no flow.
func ignored(p Packet) Program {
	p.protocol = udp
	return program(func(s *Setup) { s.unmanaged, s.exclusion = 2, toExcluded },
		in(0, p.with(func(p *Packet) { p.self = notOwn })),
		in(0, p.with(func(p *Packet) { p.peer = len(networks[0].peers) - 1 })),
		in(0, p.with(func(p *Packet) { p.self, p.protocol = loopbackOnly, echo })),
		in(0, p.with(func(p *Packet) { p.self = loopbackOnly })), out(1, p.with(func(p *Packet) { p.self = loopbackOnly })),
		in(0, p.with(func(p *Packet) { p.selfPort = excludedPort })),
		in(0, p.with(func(p *Packet) { p.protocol = gre })),
		in(2, p),
		in(0, p.with(func(p *Packet) { p.neighbour = group })),
		in(0, p.with(func(p *Packet) { p.protocol, p.flags = tcp, model.FlagACK })),
	)
}

// answered is what the host began, and a handshake that is ended by another number than it was sent.
func answered(p Packet) Program {
	asked := p.with(func(p *Packet) { p.protocol = udp })
	steps := handshake(Step{Packet: p}, 1)
	steps[2].Packet.ack = far
	return program(nil, append(steps, out(0, asked), in(0, asked))...)
}

// pinned flows are not moved.
func pinned(p Packet) Program {
	p.protocol = udp
	return program(func(s *Setup) { s.follow = bpf.DatapathFollowFOLLOW_PINNED }, in(0, p), Step{Kind: age}, in(1, p))
}

// byTunnel comes, for addresses of eth0, what would begin flows, end a handshake or move flows. Nothing else is forwarded,
// so that any address is ours.
func byTunnel(p Packet) Program {
	asked := p.with(func(p *Packet) { p.protocol = udp })
	segment := p.with(func(p *Packet) { p.flags, p.seq, p.ack = model.FlagACK, next, next })
	unknown := asked.with(func(p *Packet) { p.self = notOwn })
	steps := handshake(Step{Packet: p}, 1)
	steps[2].Device = 1
	steps = append(steps, in(1, segment), in(1, asked), out(0, asked), in(1, asked), in(0, unknown), in(1, unknown), out(1, unknown))
	return program(func(s *Setup) {
		s.devices[0].takes = bpf.DatapathTakesTAKES_ALL4 | bpf.DatapathTakesTAKES_ALL6
		s.devices[1].takes = bpf.DatapathTakesTAKES_ITS_OWN_ONLY | s.devices[0].takes
	}, steps...)
}

// conversations of each protocol: replies leave by another device, and then the peer comes by a third, of which
// two datagrams prove nothing, however long they are apart; or by that and by its own in turn, where the third alone has
// the address. A segment that cannot be its connection's is refused.
func conversations(p Packet) (all []Program) {
	setup := func(s *Setup) { s.withGRE = true }
	segment := p.with(func(p *Packet) { p.flags, p.seq, p.ack = model.FlagACK, next, next })
	all = append(all, program(setup, append(handshake(Step{Packet: p}, 1), out(1, segment), Step{Kind: age},
		in(2, segment.with(func(p *Packet) { p.ack = far })), in(2, segment))...))
	for _, protocol := range []protocol{udp, echo, sctp, gre} {
		p.protocol = protocol
		all = append(all, program(setup, in(0, p), out(1, p), out(1, p.with(func(p *Packet) { p.shape = firstFragment })),
			out(1, p.with(func(p *Packet) { p.shape = lastFragment })), in(2, p), Step{Kind: age}, Step{Kind: age}, in(2, p), in(2, p)),
			program(func(s *Setup) { s.withGRE, s.source = true, 2 }, in(0, p), in(2, p), in(0, p), Step{Kind: age},
				in(0, p), in(2, p), Step{Kind: age}, in(0, p), in(0, p), in(2, p), in(0, p), out(1, p)))
	}
	return all
}

// learnt is what handshakes tell through a router that is no gateway: its MAC works, then as the kernel routes it, then the
// rule's way, which is asked for once more after a minute. What is sent to a peer's question goes that way too.
func learnt(p Packet) Program {
	p.neighbour = secondRouter
	asked := p.with(func(p *Packet) { p.protocol = udp })
	long := Step{Kind: age, Amount: 3}
	first := slowHandshake(Step{Packet: p}, 1, record{atDamageBy: 1 | 1<<2})
	p.peerPort = 1
	second := slowHandshake(Step{Packet: p}, 1, record{atDamageBy: 1, atPayload: 16})
	return program(nil, slices.Concat(first, []Step{in(0, asked), out(1, asked), out(0, asked)},
		second, []Step{{Kind: age}, in(0, asked), out(1, asked), out(0, asked), long}, handshake(Step{Packet: p}, 1))...)
}

// lost are packets that are moved and never come to their target, whose link is down by the second time.
func lost(p Packet) Program {
	p.protocol = udp
	never := p.with(func(p *Packet) { p.fate = isLost })
	return program(nil, in(0, p), out(1, never), out(1, never), Step{Kind: toggleLink, Amount: 2}, out(1, p))
}

// announced are the sizes of SYNs by an interface that takes no more than their headers, or a byte more.
func announced(p Packet) (all []Program) {
	p.flags, p.options = model.FlagSYN, 1
	for _, mtu := range []uint32{ipv4Size + tcpSize, ipv4Size + tcpSize + 1, ipv6Size + tcpSize, ipv6Size + tcpSize + 1} {
		all = append(all, program(func(s *Setup) { s.devices[0].mtu, s.devices[0].narrow = mtu, true }, in(0, p)))
	}
	return all
}

// segmented are replies that are still to be cut: into segments that fit, and into some that are a byte too large. What
// stands behind the packet in its frame is of none of them.
func segmented(p Packet) (all []Program) {
	const udpSize = 8
	p.protocol = udp
	for excess := range uint32(2) {
		size := 1500 - uint32([]int{ipv4Size, ipv6Size}[p.family]) - udpSize + excess
		all = append(all, program(nil, in(0, p), out(1, p.with(func(p *Packet) {
			p.payload, p.segment, p.segments, p.shape, p.shapeBy = payloads[7], size, 2, paddedFrame, 14
		}))))
	}
	return all
}

// hindered are a flow's reply, and what the host originates from an address of eth0, that leave by eth1 while the
// other cannot be used, and again without what hinders them.
func hindered(p Packet) (all []Program) {
	p.protocol = udp
	own := p.with(func(p *Packet) { p.selfPort++; p.peerPort = 1 })
	large := func(p *Packet) { p.payload = payloads[6] }
	for _, hindrance := range []Program{
		program(func(s *Setup) { s.devices[0].down = true }),
		program(func(s *Setup) { s.devices[0].nextHop = bpf.DatapathNextHopModeNEXT_HOP_GATEWAY },
			Step{Kind: toggleGateway, Amount: 2 * p.family}),
		program(func(s *Setup) { s.devices[0].mtu = 1280 }),
		program(func(s *Setup) { s.mode = bpf.DatapathModeMODE_OBSERVE }),
	} {
		hindrance.Setup.devices[0].strong = true
		hindrance.Steps = slices.Concat([]Step{in(0, p)}, hindrance.Steps,
			[]Step{out(1, p.with(large)), out(1, own.with(large)), out(1, own)})
		all = append(all, hindrance)
	}
	strong := func(s *Setup) { s.devices[0].strong = true }
	return append(all, program(nil, out(1, own)), program(strong, answeredConnection(Step{Packet: own}, 1)...))
}
