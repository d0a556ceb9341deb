// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"
)

const (
	tcp = layers.IPProtocolTCP
	udp = layers.IPProtocolUDP

	servicePort = 5432
)

// common adds what most packets of a host with few flows are.
func (b *bench) common(e endpoints) {
	if e == v4 {
		for _, c := range []*testCase{
			b.ingress(e, "ingress pass: arp", pass, replication, arp(gatewayMAC, b.device(replication).MAC)),
			b.egress(e, "egress pass: arp", pass, production, arp(b.device(production).MAC, routerMAC)),
		} {
			c.name = c.name[:len(c.name)-len(", ipv4")]
		}
	}
	// Of a connection that the host opened itself.
	opened := b.out(e, tcp, 443, production)
	b.ingress(e, "ingress pass: tcp of a host-opened connection", noted, production, b.in(e, tcp, 443, production)).
		prepare = func() error {
		syn := testCase{bench: b, program: b.datapath.ReplypathEgress, frame: withFlags(opened, flagSYN),
			ifindex: b.device(production).Index, verdict: tcActUnspec}
		return syn.checkVerdict(1)
	}
	// A segment that nobody here knows anything of, as in a flood: the first run asks for a socket, all others remember
	// that there is none.
	b.ingress(e, "ingress pass: tcp of a stranger", stranger, production, b.in(e, tcp, 444, production))
	for _, protocol := range []layers.IPProtocol{tcp, udp} {
		b.ingress(e, "ingress refresh: "+name(protocol), refresh, replication, b.in(e, protocol, servicePort, replication))
	}
	// A datagram that no socket of the host takes and nobody has answered so far, as a container's statistics are: each
	// asks whether a socket is there by now.
	b.ingress(e, "ingress: udp, nobody takes it", untaken, replication, b.in(e, udp, 8125, replication))
	b.egress(e, "egress pass: tcp of a host-opened connection", noted, production, opened)
	// A query to a server: the first run notes it, all others find the note.
	b.egress(e, "egress pass: udp, host spoke first", noted, production, b.out(e, udp, 53, production))
	moved := make(map[layers.IPProtocol]*testCase)
	for _, protocol := range []layers.IPProtocol{tcp, udp} {
		b.egress(e, "egress pass: "+name(protocol)+", already right", right, replication, b.out(e, protocol, servicePort, replication))
		b.enterFlow(e, protocol, servicePort, replication)
		moved[protocol] = b.moved(e, "egress redirect: "+name(protocol), reply, production, b.out(e, protocol, servicePort, production))
	}
	arrived := b.egress(e, "egress pass: tcp, arrived", pass, replication, b.out(e, tcp, servicePort, production))
	arrived.before = func() asm.Instructions { return b.arrive(replication) }
	arrived.prepare = func() error { return moved[tcp].checkVerdict(1) } // leaves what arrivals are counted by
	// A datagram that the host forwards: the first run finds out that it is none of ours, all others remember it.
	forwarded := e.from("10.9.0.100", "fd00:9::100")
	b.ingress(e, "ingress pass: udp, forwarded", pass, production, b.in(forwarded, udp, 53, production))
	b.egress(e, "egress pass: udp, forwarded", pass, replication, b.out(forwarded, udp, 53, replication)).
		arrived = b.device(production).Index
}
