// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/gopacket/gopacket/layers"
)

func (b *bench) ingressARP() testCase {
	second := b.host.Devices[1]
	return testCase{
		name:     "ingress pass: arp",
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    arp(gatewayMAC, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
	}
}

// ingressAnswer is a segment of a connection that the host opened itself.
func (b *bench) ingressAnswer(e endpoints) testCase {
	c := b.ingressSegment("host-opened connection", e, 443)
	c.prepare = func() error {
		open := b.egressHostOpened(e)
		open.frame = outboundSYN(e, 443, b.host.Devices[0].MAC)
		return open.check()
	}
	return c
}

// ingressStranger is a segment that nobody here knows anything of, as in a flood:
// the first run asks for a socket, all others remember that there is none.
func (b *bench) ingressStranger(e endpoints) testCase {
	c := b.ingressSegment("stranger", e, 444)
	c.recorded = recordedStranger
	return c
}

func (b *bench) ingressSegment(of string, e endpoints, port uint16) testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     fmt.Sprintf("ingress pass: tcp of a %s, %s", of, e.family),
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, layers.IPProtocolTCP, port, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) ingressRefresh(e endpoints, protocol layers.IPProtocol) testCase {
	const port = 5432
	second := b.host.Devices[1]
	return testCase{
		name:     fmt.Sprintf("ingress refresh: %s, %s", name(protocol), e.family),
		bound:    boundRefresh,
		aim:      aimRefresh,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, protocol, port, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
		prepare:  func() error { return b.addFlow(e, protocol, port) },
	}
}

// ingressUntaken is a datagram that no socket of the host takes and nobody has answered so
// far, as a container's statistics are: each asks whether a socket is there by now.
func (b *bench) ingressUntaken(e endpoints) testCase {
	second := b.host.Devices[1]
	return testCase{
		name:     "ingress: udp, nobody takes it, " + e.family,
		bound:    boundUntaken,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, layers.IPProtocolUDP, 8125, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
	}
}

// ingressForwarded is a datagram that the host forwards: the first run finds out that it
// is none of ours, all others remember it.
func (b *bench) ingressForwarded(e endpoints) testCase {
	e.self = e.forwarded
	first := b.host.Devices[0]
	return testCase{
		name:     "ingress pass: udp, forwarded, " + e.family,
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathIngress,
		baseline: b.empty,
		frame:    inbound(e, layers.IPProtocolUDP, 53, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}
