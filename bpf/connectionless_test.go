// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// eachConnectionless runs a test for both families and everything that has no connection; idle is how long its flows
// live, in seconds.
func eachConnectionless(t *testing.T, f func(t *testing.T, b *bed, n network, m message, idle uint32)) {
	t.Helper()
	for _, m := range []struct {
		name string
		message
		idle uint32
	}{
		{"udp", udp{}, idleConnectionless},
		{"sctp", sctp{}, idleConnectionless},
		{"gre", raw{layers.IPProtocolGRE, make([]byte, 8)}, idleConnectionless},
		{"echo", echo{}, uint32(bpf.DatapathIdleSecondsIDLE_ECHO)},
	} {
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(1, 6, 17, 47, 58, 132) })
			f(t, b, n, m.message, m.idle)
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

// TestICMPMessages: errors, redirects, neighbour and router discovery, multicast listeners: none is recorded, none
// moved.
func TestICMPMessages(t *testing.T) {
	kinds := map[uint8][]icmp{
		4: {{3, 1}, {3, 3}, {3, 4}, {4, 0}, {5, 1}, {9, 0}, {10, 0}, {11, 0}, {12, 0}, {13, 1}, {14, 1}, {15, 0}, {17, 0}, {8, 1}, {0, 1}, {42, 0}},
		6: {{1, 4}, {2, 0}, {3, 0}, {4, 0}, {130, 0}, {131, 0}, {132, 0}, {133, 0}, {134, 0}, {135, 0}, {136, 0}, {137, 0}, {143, 0}, {128, 1}, {129, 1}},
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(connectionlessFlow(b.flow(n, echo{}, b.replication, 0)))
		for _, m := range kinds[n.family] {
			b.arrives(n, m, nothing)
			b.leaves(n, m, nothing)
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

var connectionlessFamily = map[string]story{
	"a flow that no socket takes remembers that until one does": func(t *testing.T, b *bed, n network) {
		frame := n.in(b.replication, udp{})
		b.run(ingress(b.replication, frame), b.admits(n, udp{}, b.replication))
		flow := b.flow(n, udp{}, b.replication, 0)
		flow.Flags |= flagNoSocket | flagActive
		flow.State = 0
		b.put(connectionlessFlow(flow))
		b.run(ingress(b.replication, frame), nothing)

		client := connectUDP(t, n.here(), n.there())
		b.run(ingress(b.replication, frame), nothing)
		closeSocket(t, client)

		for _, address := range []netip.Addr{n.self, netip.IPv6Unspecified()} {
			b.put(connectionlessFlow(flow))
			server := listenUDP(t, netip.AddrPortFrom(address, selfPort))
			served := flow
			served.Flags &^= flagNoSocket
			b.run(ingress(b.replication, frame), effect{tables: connectionlessFlow(served)})
			answered := flow
			answered.State = stateReplied
			b.put(connectionlessFlow(answered))
			b.run(ingress(b.replication, frame), nothing)
			closeSocket(t, server)
			b.put(connectionlessFlow(served))
			b.run(ingress(b.replication, frame), nothing) // it was somebody's
		}
	},
	"to a port of a VRF, no socket found proves nothing": func(t *testing.T, b *bed, n network) {
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
	},
}

func TestConnectionlessFamily(t *testing.T) { tell(t, eachFamily, connectionlessFamily) }

var connectionlessNoted = map[string]messageStory{
	"outbound noted": func(t *testing.T, b *bed, n network, m message) {
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
	},
	"outbound answered": func(t *testing.T, b *bed, n network, m message) {
		limit := idleOutbound
		r := ingress(b.production, n.in(b.production, m))
		for _, age := range []uint32{0, limit} {
			b.inOneTick(r, func() effect {
				b.put(b.sent(n, m, age))
				return unread(eventIgnoredAnswer)
			})
		}
		ticks := b.ago(limit) - 1
		b.put(func(t tables) { t.Outbound[b.Seeds.Digest(n.tuple(m))] = ticks })
		b.run(r, b.admits(n, m, b.production))
	},
	"a push after silence leaves the peer the one who began": func(t *testing.T, b *bed, n network, m message) {
		idle := b.flow(n, m, b.replication, idleConnectionless)
		idle.Seen--
		push, question := egress(b.production, n.out(b.production, m)), ingress(b.replication, n.in(b.replication, m))
		for _, flags := range []uint16{idle.Flags, idle.Flags &^ flagAssured} {
			idle.Flags = flags
			b.put(connectionlessFlow(idle))
			b.run(push, nothing)
			b.run(question, b.admits(n, m, b.replication))
		}
		b.put(connectionlessFlow(idle), b.sent(n, m, 0)) // as when both spoke at once
		b.run(question, b.admits(n, m, b.replication))
		b.put()
		b.run(push, b.notes(n, m))
		idle.State = 0
		b.put(connectionlessFlow(idle))
		b.run(push, b.notes(n, m))
		b.run(question, unread(eventIgnoredAnswer))
	},
}

func TestConnectionlessNoted(t *testing.T) { tell(t, eachNoted, connectionlessNoted) }
