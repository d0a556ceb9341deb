// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// hops says how many a packet has left.
func hops(left uint8) edit {
	return func(h *headers) {
		if h.v4 != nil {
			h.v4.TTL = left
		} else {
			h.v6.HopLimit = left
		}
	}
}

// TestExpired: a packet that is not for this host and has no hop left is remembered as one that the
// host may answer with an error, be it the first to its address or not; whatever it is about.
func TestExpired(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		forwarded := n.at(n.stranger)
		for _, left := range []uint8{0, 1} {
			want := b.strays(forwarded, m, b.replication)
			want.events = once(bpf.DatapathEventEVENT_IGNORED_NOT_OWN)
			frame := forwarded.in(b.replication, m, hops(left))
			b.run(ingress(b.replication, frame), want)
			b.must(b.SetTables(newTables()))
			if _, opens := m.(tcp); !opens { // each SYN is looked at
				want.events = events{}
			}
			b.run(ingress(b.replication, frame), want)
			b.must(b.SetTables(newTables()))
			b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
		}
		b.run(ingress(b.replication, forwarded.in(b.replication, m, hops(2))), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
	})
}

// TestExpiredHere: what is for this host needs no more hops.
func TestExpiredHere(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.run(ingress(b.replication, n.in(b.replication, m, hops(1))), b.starts(n, m, b.replication))
	})
}

// TestExpiredExcluded: what is excluded, or comes from an address of this host, leaves nothing behind.
func TestExpiredExcluded(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		forwarded := n.at(n.stranger)
		ignored := unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN)
		b.run(ingress(b.replication, forwarded.in(b.replication, m, hops(1), source(n.other))), ignored)
		b.must(b.SetExclusions(exclusion(prefix(n.peer), prefix(n.stranger), 0, 0)))
		b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
		b.run(ingress(b.replication, forwarded.in(b.replication, m, hops(1))), ignored)
	})
}

// TestTimestampFlow: a timestamp request of IPv4 starts a flow as an echo request does, its answer goes by that.
func TestTimestampFlow(t *testing.T) {
	b, n := newBed(t, normal), networks[0]
	request, reply := echo{time: true}, echo{time: true, reply: true}
	b.run(ingress(b.replication, n.in(b.replication, request)), b.admits(n, request, b.replication))
	b.put(connectionlessFlow(b.flow(n, request, b.replication, 0)))
	frame := n.out(b.production, reply)
	b.run(egress(b.production, frame), b.moves(n, reply, b.production, b.replication, frame))
}
