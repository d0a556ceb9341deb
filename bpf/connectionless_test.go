// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// eachConnectionless runs a test for both families and everything that has no
// connection; idle is how long its flows live, in seconds.
func eachConnectionless(t *testing.T, f func(t *testing.T, b *bed, n network, m message, idle uint32)) {
	t.Helper()
	for _, m := range []struct {
		name string
		message
		idle uint32
	}{
		{"udp", udp{}, uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)},
		{"sctp", sctp{}, uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)},
		{"gre", raw{layers.IPProtocolGRE, make([]byte, 8)}, uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)},
		{"echo", echo{}, uint32(bpf.DatapathIdleSecondsIDLE_ECHO)},
	} {
		t.Run(m.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(1, 6, 17, 47, 58, 132) })
				f(t, b, n, m.message, m.idle)
			})
		})
	}
}

// answer is the message with which the host answers this one.
func answer(m message) message {
	if _, ok := m.(echo); ok {
		return echo{reply: true}
	}
	return m
}

func TestConnectionlessRefresh(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, _ uint32) {
		b.refreshes(n, m, n.in(b.replication, m))
	})
}

// refreshes tries a frame of a known flow at both sides of a second.
func (b *bed) refreshes(n network, m message, frame []byte) {
	b.t.Helper()
	r := ingress(b.replication, frame)
	b.inOneTick(r, func() effect {
		flow := b.flow(n, m, b.replication, 1)
		flow.Flags |= flagActive
		flow.State = stateAsymmetric | stateCorrected
		flow.Corrected = 5
		b.put(flowOf(m, flow))
		flow.Seen = justNow
		flow.Flags &^= flagActive
		return effect{tables: flowOf(m, flow)}
	})
	b.inOneTick(r, func() effect {
		flow := b.flow(n, m, b.replication, 1)
		flow.Seen++
		b.put(flowOf(m, flow))
		flow.Flags |= flagActive
		return effect{tables: flowOf(m, flow)}
	})
	b.inOneTick(r, func() effect {
		flow := b.flow(n, m, b.replication, 0)
		flow.Flags |= flagActive
		b.put(flowOf(m, flow))
		return nothing
	})
}

// TestConnectionlessRefreshNextHop: once a second the next hop is chosen anew.
func TestConnectionlessRefreshNextHop(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, _ uint32) {
		flow := b.flow(n, m, b.replication, 2)
		flow.Gateway, flow.Flags = 0, flagEnforceMAC
		b.put(connectionlessFlow(flow))
		flow.Seen, flow.Gateway, flow.Flags = justNow, b.replication.gateway(n.family), flagGateway
		b.run(ingress(b.replication, n.in(b.replication, m)), effect{tables: connectionlessFlow(flow)})
	})
}

func TestConnectionlessIdle(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, idle uint32) {
		in, out := n.in(b.replication, m), n.out(b.production, answer(m))
		b.inOneTick(egress(b.production, out), func() effect {
			b.put(connectionlessFlow(b.flow(n, m, b.replication, idle)))
			return b.moves(n, m, b.production, b.replication, out)
		})
		b.inOneTick(ingress(b.replication, in), func() effect {
			flow := b.flow(n, m, b.replication, idle)
			b.put(connectionlessFlow(flow))
			flow.Seen = justNow
			return effect{tables: connectionlessFlow(flow)}
		})

		flow := b.flow(n, m, b.replication, idle)
		flow.Seen--
		flow.Flags |= flagActive
		flow.State = stateAsymmetric | stateCorrected
		flow.Corrected = 7
		b.put(connectionlessFlow(flow))
		b.run(ingress(b.replication, in), b.admits(n, m, b.replication))
	})
}

// TestConnectionlessIdleOut: to an idle flow the host speaks first, which its entry tells from then on.
func TestConnectionlessIdleOut(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, idle uint32) {
		flow := b.flow(n, m, b.replication, idle+1)
		b.put(connectionlessFlow(flow))
		flow.State |= stateHostSpoke
		want := effect{tables: connectionlessFlow(flow)}
		if _, ok := m.(echo); !ok {
			want = b.notes(n, m)
			noted := want.tables
			want.tables = func(t tables) {
				noted(t)
				connectionlessFlow(flow)(t)
			}
		}
		b.run(egress(b.production, n.out(b.production, answer(m))), want)
	})
}

// TestConnectionlessIdleOtherWay: what comes another way after the end is a new flow.
func TestConnectionlessIdleOtherWay(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, idle uint32) {
		b.put(connectionlessFlow(b.flow(n, m, b.replication, idle+1)))
		b.run(ingress(b.backup, n.in(b.backup, m)), b.admits(n, m, b.backup))
	})
}

// TestConnectionlessIdleIgnored: what may not start a flow does not revive one.
func TestConnectionlessIdleIgnored(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, idle uint32) {
		b.put(connectionlessFlow(b.flow(n, m, b.replication, idle+1)))
		b.must(b.SetExclusions(exclusion(prefix(n.peer), netip.Prefix{}, 0, 0)))
		b.run(ingress(b.replication, n.in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_EXCLUDED))
	})
}

// TestConnectionlessKnownIsNotChecked: admission is for new flows only.
func TestConnectionlessKnownIsNotChecked(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, _ uint32) {
		flow := b.flow(n, m, b.replication, 0)
		b.put(connectionlessFlow(flow))
		b.must(b.SetExclusions(exclusion(prefix(n.peer), netip.Prefix{}, 0, 0)))
		flow.Flags |= flagActive
		b.run(ingress(b.replication, n.in(b.replication, m)), effect{tables: connectionlessFlow(flow)})
	})
}

// TestEchoOfTheHost: the host's own pings and their answers are never flows.
func TestEchoOfTheHost(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.run(egress(b.production, n.out(b.production, echo{})), nothing)
		b.run(ingress(b.production, n.in(b.production, echo{reply: true})), nothing)
		b.run(egress(b.production, n.out(b.production, echo{reply: true})), nothing)

		b.put(connectionlessFlow(b.flow(n, echo{}, b.replication, 0)))
		b.run(egress(b.production, n.out(b.production, echo{})), nothing)
		b.run(ingress(b.production, n.in(b.production, echo{reply: true})), nothing)
	})
}

// TestICMPMessages: errors, redirects, neighbour and router discovery, multicast
// listeners: none is recorded, none moved.
func TestICMPMessages(t *testing.T) {
	kinds := map[uint8][]icmp{
		4: {{3, 1}, {3, 3}, {3, 4}, {4, 0}, {5, 1}, {9, 0}, {10, 0}, {11, 0}, {12, 0}, {13, 1}, {14, 1}, {15, 0}, {17, 0}, {8, 1}, {0, 1}, {42, 0}},
		6: {{1, 4}, {2, 0}, {3, 0}, {4, 0}, {130, 0}, {131, 0}, {132, 0}, {133, 0}, {134, 0}, {135, 0}, {136, 0}, {137, 0}, {143, 0}, {128, 1}, {129, 1}},
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, echo{}, b.replication, 0)))
		for _, m := range kinds[n.family] {
			b.run(ingress(b.replication, n.in(b.replication, m)), nothing)
			b.run(egress(b.production, n.out(b.production, m)), nothing)
		}
	})
}

// notes is the effect of a packet with which the host speaks first.
func (b *bed) notes(n network, m message) effect {
	return effect{
		events: once(bpf.DatapathEventEVENT_ADMITTED_OUTBOUND),
		tables: func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(m))] = justNow },
	}
}

func (b *bed) sent(n network, m message, age uint32) func(tables) {
	ticks := b.ago(age)
	return func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(m))] = ticks }
}

// eachNoted runs a test for everything that is noted when the host speaks first.
func eachNoted(t *testing.T, f func(*testing.T, *bed, network, message)) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, _ uint32) {
		if _, ok := m.(echo); !ok {
			f(t, b, n, m)
		}
	})
}

func TestOutboundNoted(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		r := egress(b.production, n.out(b.production, m))
		b.run(r, b.notes(n, m))
		b.inOneTick(r, func() effect {
			b.put(b.sent(n, m, 1))
			want := b.notes(n, m)
			want.events = nil
			return want
		})
		b.inOneTick(r, func() effect {
			ticks := b.ago(1) + 1
			b.put(func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(m))] = ticks })
			return nothing
		})
	})
}

func TestOutboundAnswered(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		limit := uint32(bpf.DatapathIdleSecondsIDLE_OUTBOUND)
		r := ingress(b.production, n.in(b.production, m))
		for _, age := range []uint32{0, limit} {
			b.inOneTick(r, func() effect {
				b.put(b.sent(n, m, age))
				return unread(bpf.DatapathEventEVENT_IGNORED_ANSWER)
			})
		}
		ticks := b.ago(limit) - 1
		b.put(func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(m))] = ticks })
		b.run(r, b.admits(n, m, b.production))
	})
}

// TestOutboundGrace: for a while after the start nobody knows who spoke first.
func TestOutboundGrace(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		r := egress(b.production, n.out(b.production, m))
		b.must(b.Grace.Put(uint32(0), b.ago(0)+b.Seconds(60)))
		b.run(r, nothing)
		for _, over := range []uint32{b.ago(0), b.ago(0) - yearsAgo, 0} {
			b.must(b.Grace.Put(uint32(0), over))
			b.put()
			b.run(r, b.notes(n, m))
		}
	})
}

// TestOutboundHearsay: what the host sent while an interface was not watched may have
// answered what came in by that one, unless something came in by another.
func TestOutboundHearsay(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		since := b.ago(3)
		b.manage(b.replication, func(i *bpf.DatapathInterface) { i.Since = since })
		question := ingress(b.replication, n.in(b.replication, m))
		for _, age := range []uint32{2, 3} {
			b.put(b.sent(n, m, age))
			b.run(question, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
		}
		b.put(b.sent(n, m, 5))
		b.run(ingress(b.production, n.in(b.production, m)), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
		b.run(question, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER)) // it has been answered
	})
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		since := b.ago(3)
		b.manage(b.replication, func(i *bpf.DatapathInterface) { i.Since = since })
		b.put(b.sent(n, m, 5))
		b.run(ingress(b.replication, n.in(b.replication, m)), b.admits(n, m, b.replication))
	})
}

// TestOutboundKnownFlow: with a flow the host answers, it does not speak first,
// and an old note does not undo it.
func TestOutboundKnownFlow(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		flow := b.flow(n, m, b.replication, 0)
		b.put(connectionlessFlow(flow), b.sent(n, m, 5))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
		flow.Flags |= flagActive
		flow.State |= stateAsymmetric
		b.run(ingress(b.replication, n.in(b.replication, m)), effect{tables: connectionlessFlow(flow)})
	})
}

// TestOutboundNotNoted: what needs no note because nothing would be recorded.
func TestOutboundNotNoted(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		for _, address := range extraordinary[n.family] {
			b.run(egress(b.production, n.out(b.production, m, destination(netip.MustParseAddr(address)))), nothing)
		}
		b.run(egress(b.production, n.out(b.production, m, source(n.stranger))), nothing)

		b.configure(func(s *bpf.DatapathSettings) { s.ScopeAll, s.Generation = 1, s.Generation+1 })
		forwarded := n
		forwarded.self = n.stranger
		b.run(egress(b.production, forwarded.out(b.production, m)), b.notes(forwarded, m))

		b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(unix.IPPROTO_TCP) })
		b.must(b.SetTables(newTables()))
		b.run(egress(b.production, n.out(b.production, m)), nothing)
	})
}

// TestConnectedSocket: a connected UDP socket asked; what comes in for it is an
// answer even if nobody saw the question. A socket that takes all comers did not.
func TestConnectedSocket(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frame := n.in(b.replication, udp{})

		server := listenUDP(t, netip.AddrPortFrom(n.self, selfPort))
		b.run(ingress(b.replication, frame), b.admitsServed(n, b.replication))
		closeSocket(t, server)
		b.must(b.SetTables(newTables()))

		other := connectUDP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort+1))
		b.run(ingress(b.replication, frame), b.admits(n, udp{}, b.replication))
		closeSocket(t, other)
		b.must(b.SetTables(newTables()))

		client := connectUDP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort))
		b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
		sctp := sctp{}
		b.run(ingress(b.replication, n.in(b.replication, sctp)), b.admits(n, sctp, b.replication))
		closeSocket(t, client)
	})
}

// serve has a server take all comers, and the peer's datagrams by a socket of their own.
func serve(t *testing.T, n network, peer netip.Addr) {
	t.Helper()
	self := netip.AddrPortFrom(n.self, selfPort)
	for _, fd := range []int{listenUDP(t, self), connectUDP(t, self, netip.AddrPortFrom(peer, peerPort))} {
		t.Cleanup(func() { closeSocket(t, fd) })
	}
}

const afterIdle = uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS) + 1

// TestConnectedServer: a server may have connected a socket to the peer who asked. The peer began, as
// the entry of the flow tells that is over: it begins another one.
func TestConnectedServer(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		serve(t, n, n.peer)
		for name, via := range map[string]nic{"the same way": b.replication, "another way": b.backup} {
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, afterIdle)))
				b.run(ingress(via, n.in(via, udp{})), b.admitsServed(n, via))
				frame := n.out(b.production, udp{})
				want := b.moves(n, udp{}, b.production, via, frame)
				want.tables = b.marked(n, udp{}, stateAnswered|stateAsymmetric, 0)
				b.run(egress(b.production, frame), want)
			})
		}
	})
}

// TestConnectedServerSpeaks: what the host says once the flow is over it begins, however long ago
// that was: what the peer says then is an answer. To say something while the flow lasts is none.
func TestConnectedServerSpeaks(t *testing.T) {
	answer := unread(bpf.DatapathEventEVENT_IGNORED_ANSWER)
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		serve(t, n, n.peer)
		question, speaks := ingress(b.replication, n.in(b.replication, udp{})), egress(b.production, n.out(b.production, udp{}))
		over := b.flow(n, udp{}, b.replication, afterIdle)
		b.put(connectionlessFlow(over))
		b.exec(speaks)
		b.run(question, answer)

		spoken, _ := b.snapshot()
		note := b.Seeds.Digest(n.tuple(udp{}))
		spoken.Outbound[note] = b.ago(uint32(bpf.DatapathIdleSecondsIDLE_OUTBOUND) + 1)
		b.must(b.SetTables(spoken))
		b.run(question, answer)
		delete(spoken.Outbound, note) // another one has its place
		b.must(b.SetTables(spoken))
		b.run(question, answer)

		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
		b.exec(speaks)
		answered, _ := b.snapshot()
		f := answered.Connectionless[n.tuple(udp{})]
		f.Seen = b.ago(afterIdle)
		b.put(connectionlessFlow(f))
		b.run(question, b.admitsServed(n, b.replication))
	})
}

// TestConnectedServerInGrace: what the host says in the grace is not noted, but heard.
func TestConnectedServerInGrace(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		serve(t, n, n.peer)
		b.must(b.Grace.Put(uint32(0), b.ago(0)+b.Seconds(60)))
		b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, afterIdle)))
		b.exec(egress(b.production, n.out(b.production, udp{})))
		b.run(ingress(b.replication, n.in(b.replication, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
	})
}

// TestConnectedUnproved: nothing tells that the peer began where no flow of it is known, or one is
// whose datagrams nobody took, or answered: its sender may be forged.
func TestConnectedUnproved(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		serve(t, n, n.peer)
		question := ingress(b.replication, n.in(b.replication, udp{}))
		b.run(question, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
		untaken := b.flow(n, udp{}, b.replication, afterIdle)
		untaken.Flags |= flagNoSocket
		untaken.State = 0
		b.put(connectionlessFlow(untaken))
		b.run(question, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
		untaken.Flags &^= flagNoSocket
		b.put(connectionlessFlow(untaken))
		b.run(question, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
	})
}

// TestDatagramNobodyTakes: a flow to a port on which no socket is remembers that, until one
// takes a datagram of it that is not the host's own; each datagram is looked at, unless
// somebody has answered.
func TestDatagramNobodyTakes(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frame := n.in(b.replication, udp{})
		b.run(ingress(b.replication, frame), b.admits(n, udp{}, b.replication))
		flow := b.flow(n, udp{}, b.replication, 0)
		flow.Flags |= flagNoSocket | flagActive
		flow.State = 0
		b.put(connectionlessFlow(flow))
		b.run(ingress(b.replication, frame), nothing)

		client := connectUDP(t, netip.AddrPortFrom(n.self, selfPort), netip.AddrPortFrom(n.peer, peerPort))
		b.run(ingress(b.replication, frame), nothing)
		closeSocket(t, client)

		for _, address := range []netip.Addr{n.self, netip.IPv6Unspecified()} {
			b.put(connectionlessFlow(flow))
			server := listenUDP(t, netip.AddrPortFrom(address, selfPort))
			served := flow
			served.Flags &^= flagNoSocket
			b.run(ingress(b.replication, frame), effect{tables: connectionlessFlow(served)})
			answered := flow
			answered.State = stateAnswered
			b.put(connectionlessFlow(answered))
			b.run(ingress(b.replication, frame), nothing)
			closeSocket(t, server)
			b.put(connectionlessFlow(served))
			b.run(ingress(b.replication, frame), nothing) // it was somebody's
		}
	})
}

// TestDatagramNobodyTakesMoves: such a flow follows its peer as any other does.
func TestDatagramNobodyTakesMoves(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		flow := b.flow(n, udp{}, b.replication, 2)
		flow.Flags |= flagNoSocket
		b.put(connectionlessFlow(flow))
		moved := b.flow(n, udp{}, b.backup, 0)
		moved.Created, moved.Seen = flow.Created, justNow
		moved.Flags |= flagNoSocket
		b.run(ingress(b.backup, n.in(b.backup, udp{})), effect{
			events: once(bpf.DatapathEventEVENT_MOVED + bpf.DatapathEvent(bpf.DatapathProtocolClassCLASS_UDP)),
			tables: connectionlessFlow(moved),
		})
	})
}

// TestDatagramToVRF: where the interface is a port of a VRF, no socket found is no proof that
// there is none.
func TestDatagramToVRF(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Vrf = 77 })
		frame := n.in(b.replication, udp{})
		b.run(ingress(b.replication, frame), b.admitsServed(n, b.replication))
		flow := b.flow(n, udp{}, b.replication, 0)
		flow.Flags |= flagNoSocket
		flow.State = 0
		b.put(connectionlessFlow(flow)) // it came before the interface was the VRF's
		served := flow
		served.Flags = flow.Flags&^flagNoSocket | flagActive
		b.run(ingress(b.replication, frame), effect{tables: connectionlessFlow(served)})
	})
}
