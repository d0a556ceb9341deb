// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// limitBackup gives the flow's interface of these tests a small MTU.
func (b *bed) limitBackup() {
	b.t.Helper()
	b.manage(b.backup, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU; r.Flags |= narrow })
}

// tooLarge is a datagram that the flow's interface does not take.
var tooLarge = udp{payload: 1400}

// tellsOfBackup is the effect of a datagram whose sender is told that it is too large.
func (b *bed) tellsOfBackup(n network, m udp) effect {
	b.t.Helper()
	frame := n.out(b.replication, m)
	return b.tellsBetween(n, m, b.replication, b.backup, frame, frame, n.stranger.AsSlice())
}

// TestDeaf: a socket that goes by its interface's MTU alone is told of no other, where the
// programs see that.
func TestDeaf(t *testing.T) {
	for _, deaf := range []int{unix.IP_PMTUDISC_INTERFACE, unix.IP_PMTUDISC_OMIT} {
		t.Run(fmt.Sprint(deaf), func(t *testing.T) {
			eachSender(t, func(t *testing.T, b *bed, n network) {
				b.limitBackup()
				fd := openWith(t, n.inet(), unix.SOCK_DGRAM, 0, n.discoversMTU(deaf),
					bindTo(netip.AddrPortFrom(n.self, selfPort)))
				want := b.tellsOfBackup(n, tooLarge)
				if b.Features.KernelSKB {
					want = b.keptBy(n, tooLarge, b.backup, bpf.DatapathOutcomeOUTCOME_MTU)
				}
				b.put(connectionlessFlow(b.flow(n, tooLarge, b.backup, 0)))
				b.send(n, fd, tooLarge, want)
			})
		})
	}
}

// TestDeafPacketSocket: one that sends frames has no such setting.
func TestDeafPacketSocket(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		b.limitBackup()
		b.put(connectionlessFlow(b.flow(n, tooLarge, b.backup, 0)))
		b.emitFrame(b.replication, n.out(b.replication, tooLarge), b.tellsOfBackup(n, tooLarge))
	})
}

func (n network) discoversMTU(how int) step {
	if n.family == 4 {
		return setOption(unix.SOL_IP, unix.IP_MTU_DISCOVER, how)
	}
	return setOption(unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, how)
}
