// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net"
	"testing"

	"replypath/bpf"
)

// Sequences in which the programs once decided otherwise than the reference model.

// TestIdleEntryHidesNoNote: the host speaks first in a tuple whose flow is over.
func TestIdleEntryHidesNoNote(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		b.put(connectionlessFlow(b.flow(n, m, b.production, uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)+2)), b.sent(n, m, 0))
		b.run(ingress(b.production, n.in(b.production, m)), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
	})
}

// TestResetIsNoSYN: a segment with both flags is a reset (RFC 9293, 3.10.7.2).
func TestResetIsNoSYN(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, flags := range []string{"SR", "SRA"} {
			b.run(ingress(b.replication, n.in(b.replication, tcp{flags: flags})), nothing)
		}
		flow := b.remote(n, 0)
		b.put(establishedFlow(flow))
		flow.Flags |= flagReset
		flow.Seen = justNow
		b.run(ingress(b.replication, n.in(b.replication, tcp{flags: "SR", seq: 5000})), effect{tables: establishedFlow(flow)})
	})
}

// TestFollowOddMAC: nothing can be sent to such a MAC, so no flow moves to it.
func TestFollowOddMAC(t *testing.T) {
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		b.put(flowOf(m, b.flow(n, m, b.replication, 20)))
		for _, mac := range []net.HardwareAddr{{0, 0, 0, 0, 0, 0}, {1, 0, 0x5e, 0, 0, 1}} {
			b.run(ingress(other, n.in(other, m, sourceMAC(mac))), unread(bpf.DatapathEventEVENT_IGNORED_MAC))
		}
	})
}

// TestUnmanagedRevivesNothing: an idle entry stays idle when a packet comes by an
// interface that is not managed.
func TestUnmanagedRevivesNothing(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		idle := b.flow(n, m, b.replication, 3600)
		if _, ok := m.(tcp); ok {
			b.put(halfOpen(idle))
		} else {
			b.put(connectionlessFlow(idle))
		}
		b.unmanage(b.production)
		b.run(ingress(b.production, n.in(b.production, m)), unread(bpf.DatapathEventEVENT_IGNORED_INTERFACE))
	})
}

// TestEchoBehindPacket: padding is no part of a message.
func TestEchoBehindPacket(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		frame := n.in(b.replication, echo{})
		for size := range 8 {
			length := size
			if n.family == 4 {
				length += n.ipSize()
			}
			b.run(ingress(b.replication, n.setLength(append([]byte(nil), frame...), uint16(length))), malformed)
		}
	})
}
