// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// What a program finds while another CPU writes: states that last for a moment.

// TestFragmentMeanwhile: what is known of a fragment's packet may be of the next one already, which has another peer,
// or asked another address.
func TestFragmentMeanwhile(t *testing.T) {
	m := udp{}
	for name, other := range map[string]func(network) network{
		"another peer":    newcomer,
		"another address": func(n network) network { return n.at(n.other) },
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			frames, next := n.inPieces(b.production, 1), other(n)
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)), connectionlessFlow(b.flow(next, m, b.backup, 0)))
			b.exec(egress(b.production, frames.first))
			b.rewriteFragments(b.Seeds.Digest(next.tuple(m)))
			b.run(egress(b.production, frames.later), unread(eventUnparsedFragment))
		})
	}
}

// rewriteFragments has all that is known of fragments be about this flow.
func (b *bed) rewriteFragments(digest uint64) {
	b.t.Helper()
	known, err := b.Leads(bpf.DatapathLeadKindLEAD_PARTS)
	b.must(err)
	b.must(b.ChangeLeads(func(l *bpf.DatapathLead) { l.Digest = digest }, bpf.DatapathLeadKindLEAD_PARTS))
	if len(known) != 1 {
		b.t.Fatalf("%d packets come in fragments, want 1", len(known))
	}
}

// TestEnteredMeanwhile: two CPUs may find no flow for the same tuple. The one that comes second leaves the first
// one's entry alone, unless that is over.
func TestEnteredMeanwhile(t *testing.T) {
	m := udp{}
	for name, age := range map[string]uint32{"live": 0, "idle": idleConnectionless + 1} {
		t.Run(name, func(t *testing.T) {
			eachFamilyOn(t, interrupted, func(t *testing.T, b *bed, n network) {
				first := b.flow(n, m, b.backup, age)
				first.Flags &^= flagAssured
				b.meanwhile(n, m, first)
				want := b.admits(n, m, b.replication)
				if age == 0 {
					want = unread(eventInsertFailedConnectionless)
					want.tables = connectionlessFlow(first)
				}
				b.arrives(n, m, want)
			})
		})
	}
}

// meanwhile has another CPU enter a flow under the digest of the message's tuple.
func (b *bed) meanwhile(n network, m message, f bpf.DatapathFlow) {
	b.t.Helper()
	b.must(b.Meanwhile(b.Seeds.Digest(n.tuple(m)), f))
	b.t.Cleanup(func() { b.must(b.Meanwhile(0, f)) })
}
