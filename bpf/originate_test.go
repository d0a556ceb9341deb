// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	strong    = uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG)
	corrected = outcomeCorrected
)

// own gives the replication interface its address alone. What was decided before is void, as the loader has it after
// any change.
func (b *bed) own(n network) {
	b.t.Helper()
	b.must(b.SetOwnAddress(n.self, ownedBy(b.replication)))
	b.outdate()
}

func (b *bed) ownStrong(n network) {
	b.t.Helper()
	b.own(n)
	b.manageStrong(b.replication, nil)
}

// outdate makes void what was decided for what the host originates.
func (b *bed) outdate() {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.RoutingGeneration++ })
}

func ownedBy(i nic) bpf.DatapathOwnFlags {
	return ownAddress | bpf.DatapathOwnFlags(i.id)<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
}

// manageStrong has the strong host model in force on an interface, with what change makes of its record.
func (b *bed) manageStrong(i nic, change func(*bpf.DatapathInterface)) {
	b.t.Helper()
	b.manage(i, func(r *bpf.DatapathInterface) {
		r.Flags |= strong
		r.FirstGateway4, r.FirstGateway6 = i.gateway(4), i.gateway(6)
		if change != nil {
			change(r)
		}
	})
}

func (b *bed) originated(n network, m message, outcome bpf.DatapathOutcome) bpf.DatapathPair {
	return pair(b.production, b.replication, n, m, outcome|bpf.DatapathOutcomeOUTCOME_ORIGINATED)
}

// record is what is kept of the addresses; nil for nothing.
func (b *bed) record(n network, m message) *bpf.DatapathRecord {
	b.t.Helper()
	record, err := b.Record(n.tuple(m))
	b.must(err)
	return record
}

// TestOriginatedLeftAlone: what the strong host model does not heed.
func TestOriginatedLeftAlone(t *testing.T) {
	for name, change := range map[string]setup{
		"several interfaces have the address": func(b *bed, n network) { b.must(b.SetOwnAddress(n.self, ownAddress)) },
		"the interface is gone":               func(b *bed, _ network) { b.unmanage(b.replication) },
		"the interface stands on the kernel's choice": func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.production.Index })
		},
		"excluded":              func(b *bed, n network) { b.exclude(rig.Exclusion(prefix(n.peer), netip.Prefix{}, 0, 0)) },
		"the peer is this host": func(b *bed, n network) { b.must(b.SetOwnAddress(n.peer, ownAddress)) },
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownStrong(n)
			change(b, n)
			m := udp{payload: 100}
			if verdict, _, _ := b.exec(egress(b.production, n.out(b.production, m))); verdict != pass {
				t.Errorf("verdict %d", verdict)
			}
			if record := b.record(n, m); record != nil {
				t.Errorf("what is kept: %+v", record)
			}
		})
	}
}

const (
	routes4 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4)
	routes6 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6)
)

// TestOriginatedFragments: all fragments of a packet go the way of the first, whatever changes meanwhile.
func TestOriginatedFragments(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.ownStrong(n)
		m, one, two := udp{}, n.inPieces(b.production, 1), n.inPieces(b.production, 2)
		b.run(egress(b.production, one.later), unread(eventUnparsedFragment)) // nobody has seen the first
		want, moved := b.notes(n, m), byGateway(b, n, m, one.first)
		want.redirect, want.frame = moved.redirect, moved.frame
		b.run(egress(b.production, one.first), want)
		b.run(egress(b.production, one.later), byGateway(b, n, m, one.later))
		b.run(egress(b.production, two.later), unread(eventUnparsedFragment)) // of another packet
		b.run(egress(b.replication, n.inPieces(b.replication, 1).later), unread(eventUnparsedFragment))

		b.switchMode(modeObserve)
		b.exec(egress(b.production, two.first))
		b.switchMode(modeConfigured)
		b.run(egress(b.production, two.later), asRouted(outcomeObserve, 0)(b, n, m, two.later))
	})
}
