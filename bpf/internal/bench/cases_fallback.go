// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	// Each packet has a flow of its own, or none.
	portFallbackReply = 6200 + iota
	portRefused
)

// fallbackCases are those of the device that holds the fallback route: first the egress program sees the
// packet, which moves a reply, and then the one that ends what the host has started.
func (b *bench) fallbackCases(e endpoints) {
	b.moved(e, "egress redirect: tcp, from the fallback route", reply, unmanaged, b.out(e, tcp, portFallbackReply, unmanaged))
	b.enterFlow(e, tcp, portFallbackReply, replication)
	fallback := func(name string, l limit, frame []byte) *testCase {
		c := b.egress(e, "fallback "+name, l, unmanaged, frame)
		c.program = b.datapath.ReplypathFallback
		return c
	}
	segment := fallback("drop: tcp, a segment", unanswered, b.out(e, tcp, portRefused, unmanaged))
	segment.verdict, segment.prove = tcActShot, counts(dropped(e), 1000)
	// Of a packet that is answered, by one that is as long, the program makes the answer.
	for _, c := range []struct {
		*testCase
		by layers.IPProtocol
	}{
		{fallback("refuse: tcp, a SYN by a RST", answeredNow, b.shortSYN(e, unmanaged)), tcp},
		{fallback("refuse: udp by an ICMP error", answeredNow, b.shortDatagram(e, unmanaged)), e.echo()},
	} {
		c.verdict, c.before = tcActRedirect, func() asm.Instructions { return rewrite(0, c.frame) }
		c.prove = func(one *testCase) error { return errors.Join(one.wantAnswer(e, c.by), counts(dropped(e), 1000)(one)) }
	}
}

// shortSYN has no options, as the RST that answers it.
func (b *bench) shortSYN(e endpoints, by int) []byte {
	syn := b.sized(e, tcp, portRefused, by, 0)
	syn[len(syn)-tcpSize+13] = flagSYN
	return syn
}

// shortDatagram is as long as an error that quotes the beginning of it.
func (b *bench) shortDatagram(e endpoints, by int) []byte {
	const errorHeader, udpSize = 8, 8
	return b.sized(e, udp, portRefused, by, errorHeader+e.ipSize()+quotedSize-udpSize)
}

// dropped is what the end of a packet at the fallback route counts as.
func dropped(e endpoints) bpf.DatapathEvent {
	if e.family == "ipv6" {
		return bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6
	}
	return bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4
}

// wantAnswer wants each of several runs to leave an answer of this protocol, from the peer.
func (c *testCase) wantAnswer(e endpoints, protocol layers.IPProtocol) error {
	offset := ethernetSize + 9
	if e.family == "ipv6" {
		offset = ethernetSize + 6
	}
	options := c.options(3)
	options.DataOut = make([]byte, len(c.frame))
	if _, err := c.program.Run(options); err != nil {
		return err
	}
	answer := options.DataOut
	source, _ := netip.AddrFromSlice(answer[sourceOffset(e):][:e.peer.BitLen()/8])
	if len(answer) != len(c.frame) || source != e.peer || layers.IPProtocol(answer[offset]) != protocol {
		return fmt.Errorf("the answer to %x is %x", c.frame, answer)
	}
	return nil
}

// hold says that the gateway of the production interface is silent, and its neighbour entry held.
func (b *bench) hold() error {
	for _, family := range []uint8{4, 6} {
		key := bpf.DatapathGatewayMac{Ifindex: b.device(production).Index, Mac: rig.MAC(routerMAC), Family: family}
		if err := b.datapath.HeldGateways.Put(key, b.now+lasting); err != nil {
			return fmt.Errorf("hold the gateway %s: %w", routerMAC, err)
		}
	}
	return nil
}

// heldCases are those behind a silent gateway whose entry is held, and one beside a gateway that answers. What passes
// does so for its flags or its interface alone: the same would be refused with others.
func (b *bench) heldCases(e endpoints) {
	held := func(name string, l limit, by int, frame []byte) *testCase {
		c := b.ingress(e, "held "+name, l, by, frame)
		c.program = b.datapath.ReplypathHeld
		return c
	}
	refused := held("refuse: tcp, a SYN by a RST", answeredNow, production, b.shortSYN(e, production))
	refused.verdict, refused.before = tcActRedirect, func() asm.Instructions { return rewrite(0, refused.frame) }
	refused.prove = func(c *testCase) error { return c.wantAnswer(e, tcp) }
	wouldBeRefused := func(frame []byte) func(*testCase) error {
		return func(c *testCase) error {
			other := c.other(frame)
			other.ifindex, other.verdict = b.device(production).Index, tcActRedirect
			return other.checkVerdict(1)
		}
	}
	segment := held("pass: tcp, a segment", unanswered, production, b.out(e, tcp, portRefused, production))
	segment.prove = wouldBeRefused(withFlags(segment.frame, flagSYN))
	other := held("pass: tcp, a SYN to another gateway", heldAway, replication, b.shortSYN(e, replication))
	other.prove = wouldBeRefused(other.frame)
}
