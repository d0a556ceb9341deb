// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// TestOutboundHearsayAhead: all that comes in by an interface is seen from a moment on that is
// yet to come. What the host sends until then may be an answer.
func TestOutboundHearsayAhead(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		b.inOneTick(ingress(b.replication, n.in(b.replication, m)), func() effect {
			since := b.ago(0) + b.Seconds(2)
			b.manage(b.replication, func(i *bpf.DatapathInterface) { i.Since = since })
			b.put(b.sent(n, m, 0))
			return b.admits(n, m, b.replication)
		})
	})
}

// TestOutboundLostHearsay: that the host spoke first, as is known of a note that was pushed out,
// is remembered with the one that was made since, which proves nothing by itself.
func TestOutboundLostHearsay(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		m, crowd := udp{}, crowd(n, ways)
		var notes []func(tables)
		for i, other := range crowd {
			notes = append(notes, b.sent(other, m, uint32(20-i)))
		}
		b.put(notes...)
		speaker := crowd[0]
		for _, other := range crowd {
			b.run(ingress(b.production, other.in(b.production, m)), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
		}
		b.exec(egress(b.production, newcomer(n).out(b.production, m))) // pushes out the oldest note
		b.exec(egress(b.production, speaker.out(b.production, m)))     // is noted anew
		if content, _ := b.snapshot(); content.Outbound[b.Seeds.Digest(speaker.tuple(m))] == 0 {
			t.Fatal("the host's datagram was not noted")
		}
		since := b.ago(0) + b.Seconds(60)
		b.manage(b.replication, func(i *bpf.DatapathInterface) { i.Since = since })
		answer := ingress(b.replication, speaker.in(b.replication, m))
		b.run(answer, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))

		b.must(b.ForgetForeign()) // the note itself says it now
		b.run(answer, unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
	})
}
