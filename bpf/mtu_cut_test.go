// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// TestReplyGSO: the size of the segments counts, not that of the packet. The test
// run makes GSO packets without a type, which the kernel refuses to change: they
// are left alone as any helper's failure leaves them. TestSizeOfLiveConnections
// has them cut.
func TestReplyGSO(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, oldKernel)
			for _, m := range []message{tcp{flags: "A", payload: 2900}, udp{payload: 2900}, sctp{payload: 2900}} {
				headers := uint32(n.ipSize()) + map[layers.IPProtocol]uint32{
					layers.IPProtocolTCP: 20, layers.IPProtocolUDP: 8, layers.IPProtocolSCTP: 12}[m.protocol(n)]
				_, isSCTP := m.(sctp) // whose segments have no one size
				for _, test := range []struct {
					size, segments uint32
					fits           bool
				}{
					{1380, 3, true},
					{1500 - headers, 3, true},
					{1500 - headers + 1, 3, false},
					{1430, 0, true}, // a virtual machine's packet does not say how many
					{1000, 0, true},
					{967, 0, true},
					{966, 0, true},
					{725, 0, true},
					{100, 0, true},
					{1495, 0, false},
				} {
					if isSCTP && test.segments == 0 {
						continue
					}
					b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
					r := egress(b.production, n.out(b.production, m))
					r.gsoSize, r.gsoSegs = test.size, test.segments
					segments := (2900 + test.size - 1) / test.size
					r.wireLen = uint32(len(r.frame)) + (segments-1)*(ethernetSize+headers)
					want := b.moves(n, m, b.production, b.replication, r.frame)
					counted := count{Packets: uint64(segments), Bytes: uint64(r.wireLen)}
					if test.segments != 0 {
						counted.Packets = uint64(test.segments)
					}
					if !test.fits || isSCTP {
						want.redirect, want.frame = false, nil
						want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_MTU)] = counted
					}
					counted.Flows = 1
					want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] = counted
					b.run(r, want)
				}
			}
		})
	}
}

// TestReplyGSOWithOptions: the headers of a segment are as long as the packet's.
func TestReplyGSOWithOptions(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, oldKernel)
			m := tcp{flags: "A", payload: 2900, options: []layers.TCPOption{
				{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)},
				{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop}}}
			frame := n.out(b.production, m, ipOptions(8))
			headers := uint32(n.ipSize()) + 8 + 32
			if n.family == 6 {
				frame = extend(n.out(b.production, m), destinations)
			}
			for _, test := range []struct {
				size uint32
				fits bool
			}{{1500 - headers, true}, {1500 - headers + 1, false}} {
				b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
				r := egress(b.production, slices.Clone(frame))
				r.gsoSize, r.gsoSegs = test.size, 3
				want := b.moves(n, m, b.production, b.replication, r.frame)
				counted := count{Packets: 3, Bytes: uint64(len(frame))}
				if !test.fits {
					want.redirect, want.frame = false, nil
					want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_MTU)] = counted
				}
				counted.Flows = 1
				want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)] = counted
				b.run(r, want)
			}
		})
	}
}

// TestReplyGSOChecked: bpf_check_mtu knows the segments.
func TestReplyGSOChecked(t *testing.T) {
	if errors.Is(features.HaveProgramHelper(ebpf.SchedCLS, asm.FnCheckMtu), ebpf.ErrNotSupported) {
		t.Skip("the kernel has no bpf_check_mtu (Linux 5.12)")
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, test := range []struct {
			payload int
			fits    bool
		}{{1000, true}, {2900, false}} { // what the test run gives the helper has no transport header
			m := tcp{flags: "A", payload: test.payload}
			b.put(establishedFlow(b.flow(n, m, b.replication, 0)))
			r := egress(b.production, n.out(b.production, m))
			r.gsoSize, r.gsoSegs = 500, 2
			want := b.moves(n, m, b.production, b.replication, r.frame)
			asymmetric := pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC)
			want.pairs[asymmetric] = count{Packets: 2, Bytes: uint64(len(r.frame)), Flows: 1}
			if !test.fits {
				want.redirect, want.frame = false, nil
				want.pairs[pair(b.production, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_MTU)] =
					count{Packets: 2, Bytes: uint64(len(r.frame))}
			}
			b.run(r, want)
		}
	})
}
