// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
)

// withoutMACs are ends of packets without an Ethernet header: BPF_PROG_TEST_RUN takes the protocol from the 13th and
// 14th byte of what it is given, where an IP header has two of the source address.
func withoutMACs(e endpoints) endpoints {
	return map[string]endpoints{
		"ipv4": {"ipv4", netip.MustParseAddr("8.0.2.100"), netip.MustParseAddr("8.0.4.100")},
		"ipv6": {"ipv6", netip.MustParseAddr("2001:db8:86dd:2::100"), netip.MustParseAddr("2001:db8:86dd:4::100")},
	}[e.family]
}

const (
	// Each packet has a flow of its own.
	portBareRefresh = 6100 + iota
	portBareSYN
	portBareStranger
	portBareOpened
	portBareRight
	portBareToBare
	portBareToEthernet
	portToBare

	// bareBatch is how often a packet can get a header that it has room for (NET_SKB_PAD, 64 bytes).
	bareBatch = 4
)

// headerlessCases are those of devices whose frames begin with the IP header, as those of tun and WireGuard do, and
// that of a reply to such a device, which loses its header after the program.
func (b *bench) headerlessCases(e endpoints) {
	b.moved(e, "egress redirect: tcp, to one without header", redirect, production, b.out(e, tcp, portToBare, production))
	b.enterFlow(e, tcp, portToBare, headerless)
	e = withoutMACs(e)
	in := func(name string, l limit, frame []byte) *testCase {
		c := b.ingress(e, "ingress_l3"+name, l, headerless, bare(frame))
		c.program, c.before = b.datapath.ReplypathIngressL3, toHost
		return c
	}
	out := func(name string, l limit, frame []byte) *testCase {
		c := b.egressAnew(e, "egress_l3"+name, l, headerless, bare(frame))
		c.program = b.datapath.ReplypathEgressL3
		return c
	}
	moved := func(name string, l limit, port uint16, to int) *testCase {
		c := out(" redirect: tcp, "+name, l, b.out(e, tcp, port, headerless))
		c.verdict, c.prove = tcActRedirect, ends(bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, 1)
		b.enterFlow(e, tcp, port, to)
		return c
	}

	refreshed := b.enterFlow(e, tcp, portBareRefresh, headerless)
	in(" refresh: tcp", refresh, b.in(e, tcp, portBareRefresh, headerless)).prove = refreshed.notes(isActive)

	syn := in(": tcp, first SYN, there is room", handshake, withFlags(b.in(e, tcp, portBareSYN, headerless), flagSYN))
	room := b.placeOf(b.datapath.HalfOpen, b.flow(e, tcp, portBareSYN, headerless))
	syn.before = func() asm.Instructions { return append(toHost(), undo(room.without())...) }
	syn.prove = counts(admittedHalfOpen, 1000)

	// Of a stranger, the first segment asks for a socket, and no other.
	in(" pass: tcp of a stranger", stranger, b.in(e, tcp, portBareStranger, headerless)).prove = func(c *testCase) error {
		return errors.Join(counts(noSocket, 1)(c), countsNothing(c))
	}
	out(" pass: tcp of a host-opened connection", pass, b.out(e, tcp, portBareOpened, headerless)).prove = countsNothing

	right := b.enterFlow(e, udp, portBareRight, headerless)
	out(" pass: udp, already right", pass, b.out(e, udp, portBareRight, headerless)).prove = right.notes(isAnswered)

	moved("to another without header", redirect, portBareToBare, headerlessToo)
	// The packet grows by a header with every run, and is made to begin as before; as it has room for few, every few
	// runs are a call of their own, which the empty program takes as well.
	grown := moved("gets a header", headered, portBareToEthernet, replication)
	grown.batch = bareBatch
	grown.before = func() asm.Instructions { return append(b.unmark(), rewrite(0, grown.frame[:e.ipSize()+tcpSize])...) }
}

// bare is a frame without its Ethernet header, and with some padding: a test run wants a whole IP header
// after 14 bytes.
func bare(frame []byte) []byte {
	return append(slices.Clone(frame[ethernetSize:]), make([]byte, ethernetSize)...)
}
