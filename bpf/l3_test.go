// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// Devices without an Ethernet header. BPF_PROG_TEST_RUN takes the protocol from
// the 13th and 14th byte of what it is given, where an IP header has two bytes
// of the source address: with these networks they say what they should.
var l3Networks = []network{
	{
		name: "ipv4", family: 4,
		peer: netip.MustParseAddr("8.0.2.100"),
		self: netip.MustParseAddr("8.0.4.100"),
	},
	{
		name: "ipv6", family: 6,
		peer: netip.MustParseAddr("2001:db8:86dd:2::100"),
		self: netip.MustParseAddr("2001:db8:86dd:4::100"),
	},
}

// eachL3 runs a test for both families on a bed whose replication interface has
// no header.
func eachL3(t *testing.T, f func(*testing.T, *bed, network)) {
	t.Helper()
	for _, n := range l3Networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, normal)
			b.must(b.SetOwnAddress(n.self, bpf.DatapathOwnFlagsOWN_ADDRESS))
			b.manage(b.replication, func(r *bpf.DatapathInterface) {
				r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
				r.Mac = [6]uint8{}
				r.Gateways4, r.Gateways6, r.Gateway4, r.Gateway6 = 0, 0, 0, 0
			})
			f(t, b, n)
		})
	}
}

// l3 runs a program for such devices on the frame without its Ethernet header,
// and with some padding: the test run wants a whole IP header after 14 bytes.
func l3(program string, via nic, frame []byte) run {
	host := uint32(unix.PACKET_HOST)
	r := run{program: program, via: via, frame: append(frame[ethernetSize:], make([]byte, ethernetSize)...)}
	r.probe.PktType = &host // the test run saw a MAC address in the IP header
	return r
}

func ingressL3(via nic, frame []byte) run { return l3(bpf.DatapathProgReplypathIngressL3, via, frame) }
func egressL3(via nic, frame []byte) run  { return l3(bpf.DatapathProgReplypathEgressL3, via, frame) }

// withoutMAC is an entry of a flow that came in without a header.
func withoutMAC(f bpf.DatapathFlow) bpf.DatapathFlow {
	f.Mac, f.Gateway, f.Flags = [6]uint8{}, 0, f.Flags&^flagGateway
	return f
}

func TestL3Ingress(t *testing.T) {
	for _, m := range starters {
		t.Run(m.name, func(t *testing.T) {
			eachL3(t, func(t *testing.T, b *bed, n network) {
				want := b.starts(n, m.message, b.replication)
				fill := want.tables
				want.tables = func(content tables) {
					fill(content)
					for _, flows := range []map[bpf.DatapathTuple]bpf.DatapathFlow{content.HalfOpen, content.Connectionless} {
						for tuple, f := range flows {
							flows[tuple] = withoutMAC(f)
						}
					}
				}
				b.run(ingressL3(b.replication, n.in(b.replication, m.message)), want)
			})
		})
	}
}

func TestL3Refresh(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		flow := withoutMAC(b.flow(n, udp{}, b.replication, 0))
		b.put(connectionlessFlow(flow))
		flow.Flags |= flagActive
		b.run(ingressL3(b.replication, n.in(b.replication, udp{payload: 30})), effect{tables: connectionlessFlow(flow)})
	})
}

func TestL3Truncated(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		frame := n.in(b.replication, tcp{flags: "S"})
		for size := ethernetSize; size < len(frame)-ethernetSize; size++ {
			r := cut(ingressL3(b.replication, slices.Clone(frame)), size)
			b.run(r, cutOff(truncated, r.frame, size))
		}
	})
}

func TestL3AlreadyRight(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		for _, enforced := range []uint16{0, flagEnforceMAC} {
			flow := withoutMAC(b.flow(n, udp{}, b.replication, 0))
			flow.Flags |= enforced
			b.put(connectionlessFlow(flow))
			b.run(egressL3(b.replication, n.out(b.replication, udp{payload: 30})), nothing)
		}
	})
}

// TestL3ToEthernet: the packet gets a header.
func TestL3ToEthernet(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		m := udp{payload: 30}
		b.put(connectionlessFlow(b.flow(n, m, b.backup, 0)))
		r := egressL3(b.replication, n.out(b.replication, m))
		want := b.moves(n, m, b.replication, b.backup, r.frame)
		kind := []byte{8, 0}
		if n.family == 6 {
			kind = []byte{0x86, 0xdd}
		}
		want.frame = slices.Concat(b.backup.router, b.backup.MAC, kind, r.frame)
		b.run(r, want)
	})
}

// TestL3ToL3: the packet goes as it is.
func TestL3ToL3(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.backup, func(r *bpf.DatapathInterface) {
			r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
		})
		m := udp{payload: 30}
		b.put(connectionlessFlow(withoutMAC(b.flow(n, m, b.backup, 0))))
		r := egressL3(b.replication, n.out(b.replication, m))
		want := b.moves(n, m, b.replication, b.backup, r.frame)
		want.frame = r.frame
		b.run(r, want)
	})
}

// TestL3HostSpeaksFirst: notes and answers are the same with and without a header.
func TestL3HostSpeaksFirst(t *testing.T) {
	eachL3(t, func(t *testing.T, b *bed, n network) {
		m := udp{payload: 30}
		b.run(egressL3(b.replication, n.out(b.replication, m)), b.notes(n, m))
		b.run(ingressL3(b.replication, n.in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
	})
}
