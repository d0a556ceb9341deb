// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/gopacket/gopacket/layers"
)

func (b *bench) egressARP() testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     "egress pass: arp",
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    arp(first.MAC, routerMAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) egressHostOpened(e endpoints) testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     "egress pass: tcp of a host-opened connection, " + e.family,
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, layers.IPProtocolTCP, 443, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

// egressHostSpokeFirst is a query to a server: the first run notes it, all
// others find the note.
func (b *bench) egressHostSpokeFirst(e endpoints) testCase {
	first := b.host.Devices[0]
	return testCase{
		name:     "egress pass: udp, host spoke first, " + e.family,
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, layers.IPProtocolUDP, 53, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActUnspec,
	}
}

// egressForwarded is the same datagram as ingressForwarded, on its way out.
func (b *bench) egressForwarded(e endpoints) testCase {
	e.self = e.forwarded
	second := b.host.Devices[1]
	return testCase{
		name:     "egress pass: udp, forwarded, " + e.family,
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, layers.IPProtocolUDP, 53, second.MAC),
		ifindex:  second.Index,
		arrived:  b.host.Devices[0].Index,
		verdict:  tcActUnspec,
	}
}

func (b *bench) egressRight(e endpoints, protocol layers.IPProtocol) testCase {
	const port = 5432
	second := b.host.Devices[1]
	return testCase{
		name:     fmt.Sprintf("egress pass: %s, already right, %s", name(protocol), e.family),
		bound:    boundPass,
		aim:      aimPass,
		program:  b.datapath.ReplypathEgress,
		baseline: b.empty,
		frame:    outbound(e, protocol, port, second.MAC),
		ifindex:  second.Index,
		verdict:  tcActUnspec,
		prepare:  func() error { return b.addFlow(e, protocol, port) },
	}
}

func (b *bench) egressRedirect(e endpoints, protocol layers.IPProtocol) testCase {
	const port = 5432
	first := b.host.Devices[0]
	return testCase{
		name:     fmt.Sprintf("egress redirect: %s, %s", name(protocol), e.family),
		bound:    boundRedirect,
		recorded: recordedRedirect,
		aim:      aimRedirect,
		program:  b.egress.program,
		baseline: b.egressEmpty.program,
		frame:    outbound(e, protocol, port, first.MAC),
		ifindex:  first.Index,
		verdict:  tcActRedirect,
		prepare:  func() error { return b.addFlow(e, protocol, port) },
	}
}

// egressArrived is the second run for a packet that was moved.
func (b *bench) egressArrived(e endpoints, protocol layers.IPProtocol) testCase {
	redirect, second := b.egressRedirect(e, protocol), b.host.Devices[1]
	return testCase{
		name:     fmt.Sprintf("egress pass: %s, arrived, %s", name(protocol), e.family),
		bound:    boundPass,
		aim:      aimPass,
		program:  b.arrival.program,
		baseline: b.arrivalEmpty.program,
		frame:    redirect.frame,
		ifindex:  second.Index,
		verdict:  tcActUnspec,
		prepare:  redirect.check, // leaves the word that arrivals are counted by
	}
}
