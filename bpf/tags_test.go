// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"replypath/bpf"
)

// sameTag is this many networks whose flows have one tag.
func (b *bed) sameTag(n network, m message, count int) []network {
	b.t.Helper()
	tag := func(n network) uint64 {
		return bpf.Tags([ways]uint64{b.Seeds.Digest(n.tuple(m))})
	}
	var same []network
	for i := range uint32(1 << 16) {
		other := n
		address := n.peer.AsSlice()
		binary.BigEndian.PutUint16(address[len(address)-2:], uint16(i))
		other.peer, _ = netip.AddrFromSlice(address)
		if len(same) == 0 || tag(other) == tag(same[0]) {
			same = append(same, other)
		}
		if len(same) == count {
			return same
		}
	}
	b.t.Fatalf("of 65536 flows only %d have one tag", len(same))
	return nil
}

// TestTagOfAnother: a flow is found behind one with its tag, and one that is not in
// the table is not taken for those that are.
func TestTagOfAnother(t *testing.T) {
	for _, c := range []struct {
		name    string
		message message
		put     func(bpf.DatapathFlow) func(tables)
	}{
		{"established", tcp{flags: "A"}, establishedFlow},
		{"connectionless", udp{}, connectionlessFlow},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				same := b.sameTag(n, c.message, ways)
				absent := same[ways-1]
				var flows []func(tables)
				for _, n := range same[:ways-1] {
					flows = append(flows, c.put(b.flow(n, c.message, b.replication, 0)))
				}
				b.put(flows...)
				for i, n := range same[:ways-1] {
					verdict, _, _ := b.exec(egress(b.production, n.out(b.production, c.message)))
					if verdict != redirect {
						t.Errorf("flow %d: verdict %d", i, verdict)
					}
				}
				verdict, _, _ := b.exec(egress(b.production, absent.out(b.production, c.message)))
				if verdict != pass {
					t.Errorf("no flow: verdict %d", verdict)
				}
			})
		})
	}
}
