// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	testwire "replypath/test/wire"
)

// syns are the connections that the host begins by eth1.
func (b *bed) syns(wire *topology.Capture) int {
	b.Helper()
	return len(wire.Frames(topology.All(topology.Going(topology.Received), topology.TCP,
		topology.From(b.net.Server.Eth1.Address(b.family)), topology.To(b.clientAddress()), topology.ToPort(traffic.EchoPort))))
}

// TestSourceWithoutEth0 shows what is not survived: while eth0 has no address the kernel takes another NIC's for
// what the host starts. A UDP socket that is connected then keeps it, and by a rule for that address a
// connection leaves by eth1. Without replypath both fail, but by IPv6 where there is the rule: after a lookup that
// fails the kernel takes any address and looks again (net/ipv6/ip6_output.c, ip6_dst_lookup_tail()). With replypath
// the first does not fail, and nothing leaves.
func TestSourceWithoutEth0(t *testing.T) {
	t.Parallel()
	quick := short.Run(t)
	for k, f := range traffic.Families {
		for n, ruled := range []bool{false, true} {
			if quick && k == n {
				continue
			}
			t.Run(fmt.Sprintf("%s/rule %t", f, ruled), func(t *testing.T) {
				t.Parallel()
				for _, product := range []bool{false, true} {
					b := newBed(t, f, anySource)
					if ruled {
						b.ruleForEth1("add")
					}
					if product {
						b.start()
					}
					b.sourceWithoutEth0(ruled, product)
				}
			})
		}
	}
}

func (b *bed) sourceWithoutEth0(ruled, product bool) {
	b.Helper()
	wire := testwire.Capture(b, b.net.Server.Eth1.Peer())
	b.deleteEth0()
	if product { // until the daemon hears of it, IPv4's route of last resort serves whatever the host begins
		b.awaitRules(true)
	}
	client := netip.AddrPortFrom(b.clientAddress(), traffic.EchoPort).String()
	connected, udpErr := b.net.Server.Dial(await.Within(b, await.AnswerTime), "udp", client)
	tcpErr := b.reach(traffic.TCP)
	b.replaceEth0()
	b.Eventually("the host reaches the client", func() error { return b.reach(traffic.TCP) })
	source := "none"
	if udpErr == nil {
		defer connected.Close()
		b.Eventually("the socket is answered", func() error { return exchange(connected, promptly) })
		source = connected.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().String()
	}
	syns := b.syns(wire)
	b.Logf("replypath: %t: a UDP socket that was connected meanwhile has the source %s (%v), connect: %v, %d SYNs by eth1",
		product, source, udpErr, tcpErr, syns)
	looksAgain := ruled && b.family == topology.IPv6
	if has := source == b.net.Server.Eth1.Address(b.family).String(); has != looksAgain {
		b.Errorf("the socket's source is %s, replypath: %t, rule: %t", source, product, ruled)
	}
	if left := syns > 0; left != looksAgain || left != (tcpErr == nil) {
		b.Errorf("%d SYNs by eth1, connect: %v, replypath: %t, rule: %t", syns, tcpErr, product, ruled)
	}
}
