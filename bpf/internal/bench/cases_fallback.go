// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	// Each packet has a flow of its own, or none.
	portFallbackReply = 6200 + iota
	portRefused
	portGateReply

	bpfOK, bpfDrop = 0, 2 // of <linux/bpf.h>
)

// fallbackCases are those of the device that holds the fallback route: first the egress program sees the
// packet, which moves a reply, and then the one that ends what the host has started.
func (r *rare) fallbackCases(e endpoints) ([]testCase, error) {
	self := r.device(unmanaged).MAC
	reply := r.moved("egress redirect: tcp, from the fallback route, "+e.family, boundRedirect, aimRedirect, unmanaged,
		outbound(e, layers.IPProtocolTCP, portFallbackReply, self))
	reply.recorded = recordedRedirect
	if _, _, err := r.enter(e, layers.IPProtocolTCP, portFallbackReply, replication); err != nil {
		return nil, err
	}
	unanswered := r.fallback("drop: tcp, a segment", e, boundUnanswered, outbound(e, layers.IPProtocolTCP, portRefused, self))
	unanswered.before, unanswered.verdict = nil, tcActShot
	unanswered.prove = r.counts(dropped(e))
	refused := r.fallback("refuse: tcp, a SYN by a RST", e, boundAnswer, shortSYN(e, self))
	refused.prove = r.answers(e, layers.IPProtocolTCP)
	told := r.fallback("refuse: udp by an ICMP error", e, boundAnswer, shortDatagram(e, self))
	told.prove = r.answers(e, echoProtocol(e))
	return []testCase{reply, unanswered, refused, told}, nil
}

// fallback is a case of a packet that is answered, by one that is as long: the program makes the answer of it.
func (r *rare) fallback(name string, e endpoints, bound float64, frame []byte) testCase {
	c := r.egress(name, bound, 0, unmanaged, frame)
	c.name, c.program, c.verdict = fmt.Sprintf("fallback %s, %s", name, e.family), r.datapath.ReplypathFallback, tcActRedirect
	c.before = func() asm.Instructions { return rewrite(frame) }
	return c
}

// shortSYN has no options, as the RST that answers it.
func shortSYN(e endpoints, from net.HardwareAddr) []byte {
	syn := sizedFrame(from, routerMAC, layers.IPProtocolTCP, netip.AddrPortFrom(e.self, portRefused),
		netip.AddrPortFrom(e.peer, peerPort), 0)
	syn[len(syn)-tcpSize+13] = 0x02
	return syn
}

// shortDatagram is as long as an error that quotes the beginning of it.
func shortDatagram(e endpoints, from net.HardwareAddr) []byte {
	const errorHeader, udpSize = 8, 8
	return sizedFrame(from, routerMAC, layers.IPProtocolUDP, netip.AddrPortFrom(e.self, portRefused),
		netip.AddrPortFrom(e.peer, peerPort), errorHeader+e.ipSize()+quotedSize-udpSize)
}

// dropped is what the end of a packet at the fallback route counts as.
func dropped(e endpoints) bpf.DatapathEvent {
	if e.family == "ipv6" {
		return bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6
	}
	return bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4
}

// answers proves that every run ends the packet, and makes an answer of this protocol of it.
func (r *rare) answers(e endpoints, protocol layers.IPProtocol) func(*testCase) error {
	return func(c *testCase) error {
		if err := c.wantProtocol(e, protocol); err != nil {
			return err
		}
		return r.wantCounted(c, dropped(e), 1000)
	}
}

// wantProtocol wants each of several runs to leave an answer of this protocol, from the peer.
func (c *testCase) wantProtocol(e endpoints, protocol layers.IPProtocol) error {
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
func (r *rare) hold() error {
	now, err := r.datapath.Now()
	if err != nil {
		return err
	}
	for _, family := range []uint8{4, 6} {
		key := bpf.DatapathGatewayMac{Ifindex: r.device(production).Index, Mac: rig.MAC(routerMAC), Family: family}
		if err := r.datapath.HeldGateways.Put(key, now+lasting); err != nil {
			return fmt.Errorf("hold the gateway %s: %w", routerMAC, err)
		}
	}
	return nil
}

// heldCases are those behind a silent gateway whose entry is held, and one beside a gateway that answers.
func (r *rare) heldCases(e endpoints) ([]testCase, error) {
	first, second := r.device(production), r.device(replication)
	refused := r.held("refuse: tcp, a SYN by a RST", e, boundAnswer, production, shortSYN(e, first.MAC))
	refused.verdict, refused.before = tcActRedirect, func() asm.Instructions { return rewrite(refused.frame) }
	refused.prove = func(c *testCase) error { return c.wantProtocol(e, layers.IPProtocolTCP) }
	segment := r.held("pass: tcp, a segment", e, boundUnanswered, production,
		outbound(e, layers.IPProtocolTCP, portRefused, first.MAC))
	segment.prove = func(c *testCase) error { return c.wantOther(first.Index, withFlags(slices.Clone(c.frame), 0x02)) }
	other := r.held("pass: tcp, a SYN to another gateway", e, boundHeld, replication, shortSYN(e, second.MAC))
	other.prove = func(c *testCase) error { return c.wantOther(first.Index, c.frame) }
	return []testCase{refused, segment, other}, nil
}

func (r *rare) held(name string, e endpoints, bound float64, by int, frame []byte) testCase {
	c := r.ingress(name, bound, 0, by, frame)
	c.name, c.program = fmt.Sprintf("held %s, %s", name, e.family), r.datapath.ReplypathHeld
	return c
}

// wantOther wants another frame, or the same by another interface, to be refused: what is measured passes
// for that difference alone.
func (c *testCase) wantOther(ifindex uint32, frame []byte) error {
	other := *c
	other.ifindex, other.frame, other.verdict = ifindex, frame, tcActRedirect
	return other.checkVerdict(1)
}

// gateCases are those of the program that the fallback routes ask (LWT, `encap bpf out`). Where the kernel's memory
// cannot be read, it does not know whether a datagram is to be translated back, and lets it by.
func (r *rare) gateCases(e endpoints) ([]testCase, error) {
	datagram := r.gate("stop: udp of a socket that is not connected", e, boundGate,
		outbound(e, layers.IPProtocolUDP, portRefused, routerMAC))
	datagram.verdict, datagram.prove = bpfDrop, r.counts(dropped(e))
	reply := r.gate("pass: udp of a flow", e, boundGate, outbound(e, layers.IPProtocolUDP, portGateReply, routerMAC))
	reply.prove = r.countsNothing
	if _, _, err := r.enter(e, layers.IPProtocolUDP, portGateReply, replication); err != nil {
		return nil, err
	}
	segment := r.gate("pass: tcp", e, boundGate, outbound(e, layers.IPProtocolTCP, portRefused, routerMAC))
	segment.prove = r.countsNothing
	if !r.datapath.Features.ProbeRead {
		return []testCase{segment}, nil
	}
	return []testCase{datagram, reply, segment}, nil
}

func (r *rare) gate(name string, e endpoints, bound float64, frame []byte) testCase {
	c := r.ingress(name, bound, 0, production, frame)
	c.name, c.verdict = fmt.Sprintf("gate %s, %s", name, e.family), bpfOK
	c.program, c.baseline = r.datapath.ReplypathGate, r.emptyGate
	return c
}

// emptyGate lets every packet by.
func emptyGate() (*ebpf.Program, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty_gate", Type: ebpf.LWTOut, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, bpfOK), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load empty gate: %w", err)
	}
	return program, nil
}
