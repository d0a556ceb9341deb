package bpf_test

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// succeeds has a datapath with empty tables ask another one, which is returned.
func (b *bed) succeeds(kind bpf.DatapathFrameKind, program string) (earlier *bed) {
	b.t.Helper()
	earlier = newBed(b.t, oldKernel) // with programs and tables of its own
	b.must(b.Predecessor.Put(uint32(kind), earlier.program(program)))
	b.t.Cleanup(func() {
		if err := b.Predecessor.Delete(uint32(kind)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			b.t.Error(err)
		}
	})
	return earlier
}

// runOn runs a program of b and wants an effect on the datapath that it asks.
func (b *bed) runOn(earlier *bed, r run, want effect) {
	b.t.Helper()
	var o outcome
	o.before, o.counted = earlier.snapshot()
	o.earliest = b.ago(0)
	o.verdict, o.frame, o.context = b.exec(r)
	o.latest = b.ago(0)
	o.after, o.counts = earlier.snapshot()
	earlier.compare(r, want, o)
}

// TestPredecessor: while the tables are replaced, the programs that look at those of
// before decide about what is not in the new ones, and about nothing else.
func TestPredecessor(t *testing.T) {
	for _, replier := range repliers {
		t.Run(replier.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				m := replier.message
				frame := n.out(b.production, m)
				r := egress(b.production, frame)
				earlier := b.succeeds(bpf.DatapathFrameKindFRAME_ETHERNET, r.program)
				earlier.put(flowOf(m, earlier.flow(n, m, earlier.backup, 0)))
				b.runOn(earlier, r, earlier.moves(n, m, earlier.production, earlier.backup, frame))

				b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
				b.run(r, b.moves(n, m, b.production, b.replication, frame))
			})
		})
	}
}

// TestPredecessorL3: the same between devices without an Ethernet header.
func TestPredecessorL3(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		m := udp{payload: 30}
		r := egressL3(b.replication, n.out(b.replication, m))
		earlier := b.succeeds(bpf.DatapathFrameKindFRAME_BARE, r.program)
		earlier.must(earlier.SetOwnAddress(n.self, bpf.DatapathOwnFlagsOWN_ADDRESS))
		bare := func(r *bpf.DatapathInterface) { r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER) }
		earlier.manage(earlier.replication, bare)
		earlier.manage(earlier.backup, bare)
		earlier.put(connectionlessFlow(withoutMAC(earlier.flow(n, m, earlier.backup, 0))))
		want := earlier.moves(n, m, earlier.replication, earlier.backup, r.frame)
		want.frame = r.frame
		b.runOn(earlier, r, want)
	})
}
