// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// TestTraceUnread: what cannot be read has no addresses to tell it by, and goes its way.
func TestTraceUnread(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		for _, r := range []run{
			ingress(b.replication, n.setLength(n.in(b.replication, udp{payload: 100}), 2000)),
			egress(b.production, n.setLength(n.out(b.production, udp{payload: 100}), 2000)),
		} {
			b.run(r, truncated)
			tracer.want()
		}
	})
}

// TestTraceIdleFlow: an idle flow is none.
func TestTraceIdleFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		tracer := b.traceAll()
		m := udp{}
		b.put(connectionlessFlow(b.flow(n, m, b.replication, uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)+1)))
		b.must(b.SetExclusions(exclusion(prefix(n.peer), netip.Prefix{}, 0, 0)))
		frame := n.in(b.replication, m)
		b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_EXCLUDED))
		want := n.event(tracedIn, m, b.replication, frame)
		want.Mac, want.Counted = rig.MAC(b.replication.router), 1<<bpf.DatapathEventEVENT_IGNORED_EXCLUDED
		tracer.want(want)
	})
}

// TestTraceLostReturned: a sender is told of its size as well where there is no room to tell of
// that.
func TestTraceLostReturned(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, smallRings)
			b.limit(narrowMTU)
			tracer := b.traceAll()
			b.fillRing(b.TraceEvents, func(uint32) { b.exec(egress(b.replication, n.out(b.replication, udp{}))) })
			b.put(connectionlessFlow(b.flow(n, tooLarge, b.replication, 0)))
			lost := tracer.lost()
			frame := n.out(b.production, tooLarge)
			b.run(egress(b.production, frame), b.tells(n, tooLarge, frame, n.stranger.AsSlice()))
			if now := tracer.lost(); now != lost+1 {
				t.Errorf("%d events were lost, want 1", now-lost)
			}
		})
	}
}
