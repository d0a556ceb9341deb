// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	narrow = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NARROW)

	narrowMTU = 1280 // of the flow's interface in these tests
	quoteSize = 128  // bytes of the packet that an ICMP error quotes
)

func (b *bed) limit(i nic, mtu uint32) {
	b.t.Helper()
	b.manage(i, func(r *bpf.DatapathInterface) { r.Mtu = mtu; r.Flags |= narrow })
}

// sizeError is the frame that a packet is turned into: what a router says that cannot forward it, in the peer's name, from
// the interface that it was to leave by to itself.
func (n network) sizeError(frame []byte, via nic, mtu uint32) []byte {
	quote := gopacket.Payload(frame[ethernetSize : ethernetSize+quoteSize])
	if n.family == 4 {
		return n.answerBy(via, layers.IPProtocolICMPv4, &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded),
			Seq:      uint16(mtu),
		}, quote)
	}
	return n.answerBy(via, layers.IPProtocolICMPv6,
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0)},
		gopacket.Payload(binary.BigEndian.AppendUint32(nil, mtu)), quote)
}

// tells is the effect of a packet that leaves by one interface, and is too large for its flow's. `seen` is what the
// program sees of the frame.
func (b *bed) tells(n network, m message, via, to nic, seen, frame []byte) effect {
	e := b.stays(n, m, via, to, seen, outcomeMTU)
	e.redirect, e.frame = true, n.sizeError(frame, via, narrowMTU)
	return e.and(func(t tables) {
		for _, flows := range []entries{t.Established, t.Connectionless} {
			if f, ok := flows[n.tuple(m)]; ok {
				f.SizeTold = toldNow
				flows[n.tuple(m)] = f
			}
		}
	})
}

var tooLarge = udp{payload: 1400}

// wantTold sends what is too large for its flow's interface: its sender is told so.
func (b *bed) wantTold(n network, m message, frame []byte) {
	b.t.Helper()
	b.put(flowOf(m, b.flow(n, m, b.replication, 0)))
	b.run(egress(b.production, frame), b.tells(n, m, b.production, b.replication, frame, frame))
}

// eachVariant runs a test with what the kernel has and with what 5.10 has.
func eachVariant(t *testing.T, f func(t *testing.T, b *bed, n network)) {
	t.Helper()
	for name, v := range map[string]variant{"this kernel": normal, "old kernel": oldKernel} {
		t.Run(name, func(t *testing.T) { eachFamilyOn(t, v, f) })
	}
}

// TestSizeToldAtMostOnceASecond: what is sent meanwhile goes as routed. One flow's silence is not another's.
func TestSizeToldAtMostOnceASecond(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.limit(b.replication, narrowMTU)
		frame := n.out(b.production, tooLarge)
		for since, told := range map[uint32]bool{0: false, b.Seconds(1) - 1: false, b.Seconds(1): true, b.Seconds(60): true} {
			b.inOneTick(egress(b.production, frame), func() effect {
				flow := b.flow(n, tooLarge, b.replication, 0)
				flow.SizeTold = uint16(b.ago(0) - since)
				b.put(connectionlessFlow(flow))
				return either(told, b.tells(n, tooLarge, b.production, b.replication, frame, frame),
					b.stays(n, tooLarge, b.production, b.replication, frame, outcomeMTU))
			})
		}
		other := udp{ports: ports{peer: 999}, payload: 1400}
		told := b.flow(n, tooLarge, b.replication, 0)
		told.SizeTold = uint16(b.ago(0))
		b.put(connectionlessFlow(told), connectionlessFlow(b.flow(n, other, b.replication, 0)))
		frame = n.out(b.production, other)
		b.leaves(n, other, b.tells(n, other, b.production, b.replication, frame, frame))
	})
}

// TestSizeNotTold: of a packet whose headers do not fit into the quote no message is made: it goes as routed.
func TestSizeNotTold(t *testing.T) {
	b, n := newBed(t, normal), networks[1]
	b.limit(b.replication, narrowMTU)
	for words, told := range map[byte]bool{0: true, 7: true, 8: false, 9: false} { // 40 + 64 + 20 = 124 bytes
		options := append([]byte{0, words, 1, 4, 0, 0, 0, 0}, make([]byte, 8*int(words))...)
		frame := rig.Extend(n.out(b.production, tooLarge), extension{Kind: layers.IPProtocolIPv6Destination, Body: options})
		if told {
			b.wantTold(n, tooLarge, frame)
			continue
		}
		b.put(connectionlessFlow(b.flow(n, tooLarge, b.replication, 0)))
		b.run(egress(b.production, frame), b.stays(n, tooLarge, b.production, b.replication, frame, outcomeMTU))
	}
}

// TestDeaf: a socket that goes by its interface's MTU alone is told of no other, where the programs see that. A packet
// socket has no such setting.
func TestDeaf(t *testing.T) {
	eachSender(t, func(t *testing.T, b *bed, n network) {
		level := either(n.family == 4, unix.SOL_IP, unix.SOL_IPV6)
		name := either(n.family == 4, unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER)
		b.limit(b.backup, narrowMTU)
		frame := n.out(b.replication, tooLarge)
		tells := b.tells(n, tooLarge, b.replication, b.backup, frame, frame)
		for _, deaf := range []int{unix.IP_PMTUDISC_INTERFACE, unix.IP_PMTUDISC_OMIT} {
			b.sub(fmt.Sprint(deaf), func(t *testing.T) {
				fd := b.serve(n.self, 0, setOption(level, name, deaf))
				b.put(connectionlessFlow(b.flow(n, tooLarge, b.backup, 0)))
				b.send(n, fd, tooLarge, either(b.Features.KernelSKB, b.keptBy(n, tooLarge, b.backup, outcomeMTU), tells))
			})
		}
		b.put(connectionlessFlow(b.flow(n, tooLarge, b.backup, 0)))
		b.emitFrame(b.replication, frame, tells)
	})
}
