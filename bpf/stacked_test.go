// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// TestStackedDevice: a macvlan's frames pass the device below as well, in both
// directions; they are on the way that they should go.
func TestStackedDevice(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.production.Index })
		b.run(egress(b.production, n.out(b.production, m)), nothing)
		frame := n.out(b.backup, m)
		b.run(egress(b.backup, frame), b.moves(n, m, b.backup, b.replication, frame))
	})
	eachWay(t, func(t *testing.T, b *bed, n network, m message, other nic) {
		if other.Index != b.backup.Index {
			return
		}
		b.follow(bpf.DatapathFollowFOLLOW_LATEST)
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.backup.Index })
		b.put(flowOf(m, b.flow(n, m, b.replication, 20)))
		b.run(ingress(b.backup, n.in(b.backup, m)), nothing)
	})
}

// TestStackedSegments: those that never move a flow are not counted on their way up either.
func TestStackedSegments(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.backup.Index })
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		for _, flags := range []string{"R", "SA"} {
			b.run(ingress(b.backup, n.in(b.backup, tcp{flags: flags})), nothing)
			b.run(ingress(b.production, n.in(b.production, tcp{flags: flags})), unread(contested))
		}
	})
}

// TestExcludedIsNotNoted: who may ask an excluded port cannot fill the notes with
// our answers.
func TestExcludedIsNotNoted(t *testing.T) {
	eachNoted(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetExclusions(exclusion(prefix(n.peer), prefix(n.self), 0, 0)))
		b.run(egress(b.production, n.out(b.production, m)), nothing)
		b.configure(func(s *bpf.DatapathSettings) { s.Exclusions, s.Generation = 1, s.Generation+1 })
		b.must(b.SetOwnAddress(n.self, bpf.DatapathOwnFlagsOWN_ADDRESS|bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY))
		b.run(egress(b.production, n.out(b.production, m)), nothing)
	})
}
