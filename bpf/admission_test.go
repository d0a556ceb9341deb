// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// starts is the effect of a packet that starts a flow, whatever its protocol.
func (b *bed) starts(n network, m message, via nic) effect {
	if _, ok := m.(tcp); !ok {
		return b.admits(n, m, via)
	}
	return effect{
		events: once(bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN),
		tables: halfOpen(b.born(n, m, via)),
	}
}

// starters are the packets that start a flow.
var starters = []struct {
	name string
	message
}{
	{"tcp", tcp{flags: "S", seq: 77}},
	{"udp", udp{payload: 3}},
	{"sctp", sctp{}},
	{"echo", echo{}},
}

// eachStarter runs a test for both families and everything that starts a flow.
func eachStarter(t *testing.T, f func(*testing.T, *bed, network, message)) {
	t.Helper()
	for _, m := range starters {
		t.Run(m.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) { f(t, b, n, m.message) })
		})
	}
}

func TestAdmit(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.run(ingress(b.replication, n.in(b.replication, m)), b.starts(n, m, b.replication))
	})
}

func TestAdmitUnlistedProtocol(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.configure(func(s *bpf.DatapathSettings) {
			own := uint8(m.protocol(n))
			s.Protocols[own/8] &^= 1 << (own % 8)
		})
		b.run(ingress(b.replication, n.in(b.replication, m)), unlisted)
	})
}

// unlisted is the effect of a packet of a protocol that is not listed.
var unlisted = unread(bpf.DatapathEventEVENT_IGNORED_PROTOCOL)

// TestAdmitListedProtocol: a protocol without ports is recorded by address pair.
func TestAdmitListedProtocol(t *testing.T) {
	for _, protocol := range []layers.IPProtocol{
		layers.IPProtocolGRE, layers.IPProtocolESP, layers.IPProtocolAH, layers.IPProtocolIPIP,
		layers.IPProtocolVRRP, 0xff,
	} {
		t.Run(protocol.String(), func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(uint8(protocol)) })
				m := raw{protocol, []byte{1, 2, 3}}
				b.run(ingress(b.replication, n.in(b.replication, m)), b.admits(n, m, b.replication))
			})
		})
	}
}

func TestAdmitDHCP(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, port := range []uint16{67, 68, 546, 547} {
			dhcp := udp{ports: ports{self: port}}
			b.run(ingress(b.replication, n.in(b.replication, dhcp)), unread(bpf.DatapathEventEVENT_IGNORED_PROTOCOL))
		}
		for _, m := range []message{
			udp{ports: ports{self: 66}}, udp{ports: ports{self: 69}}, udp{ports: ports{self: 548}},
			udp{ports: ports{peer: 67}}, tcp{ports: ports{self: 67}, flags: "S"},
		} {
			b.run(ingress(b.replication, n.in(b.replication, m)), b.starts(n, m, b.replication))
		}
	})
}

// TestForeignDatagram: what is forwarded is looked at once a minute, in both
// directions, until what counts as ours changes.
func TestForeignDatagram(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, _ uint32) {
		forwarded := n
		forwarded.self = n.stranger
		in, out := ingress(b.replication, forwarded.in(b.replication, m)), egress(b.production, forwarded.out(b.production, m))
		b.keepPeriod()
		b.run(in, unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		b.run(in, nothing)
		b.run(out, nothing)
		b.run(out, nothing)

		b.must(b.SetOwnAddress(n.stranger, bpf.DatapathOwnFlagsOWN_ADDRESS))
		b.run(in, nothing)
		b.run(out, nothing)
		b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
		b.run(in, b.admits(forwarded, m, b.replication))
	})
}

// TestForeignAddress: of an address that is not ours one packet is looked at, whatever
// it is about; ::a.b.c.d says nothing of a.b.c.d.
func TestForeignAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		forwarded := n
		forwarded.self = n.stranger
		b.keepPeriod()
		b.run(ingress(b.replication, forwarded.in(b.replication, syn)), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		for _, m := range []message{tcp{flags: "A"}, udp{}, udp{ports: ports{self: 53}}, echo{}} {
			b.run(ingress(b.replication, forwarded.in(b.replication, m)), nothing)
		}
	})
	t.Run("compatible", func(t *testing.T) {
		b, v4, v6 := newBed(t, normal), networks[0], networks[1]
		bytes := [16]byte(make([]byte, 16))
		copy(bytes[12:], v4.self.AsSlice())
		v6.self = netip.AddrFrom16(bytes)
		b.run(ingress(b.replication, v6.in(b.replication, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
		b.run(ingress(b.replication, v4.in(b.replication, udp{})), b.admits(v4, udp{}, b.replication))
	})
}

func TestAdmitScope(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.in(b.replication, m, destination(n.stranger))
		b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))

		b.configure(func(s *bpf.DatapathSettings) { s.ScopeAll, s.Generation = 1, s.Generation+1 })
		forwarded := n
		forwarded.self = n.stranger
		b.run(ingress(b.replication, frame), b.starts(forwarded, m, b.replication))
	})
}

// TestAdmitLoopbackAddress: an address that only lo has follows the routing table
// unless the operator wants otherwise.
func TestAdmitLoopbackAddress(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetOwnAddress(n.self, bpf.DatapathOwnFlagsOWN_ADDRESS|bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY))
		frame := n.in(b.replication, m)
		b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_LOOPBACK))
		b.configure(func(s *bpf.DatapathSettings) { s.ScopeAll = 1 })
		b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_LOOPBACK))
		b.configure(func(s *bpf.DatapathSettings) { s.Loopback = 1 })
		b.run(ingress(b.replication, frame), b.starts(n, m, b.replication))
	})
}

// extraordinary and ordinary addresses, at the bounds of their ranges.
var (
	extraordinary = map[uint8][]string{
		4: {"0.0.0.0", "127.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.255.255",
			"224.0.0.0", "224.0.0.1", "239.255.255.255", "255.255.255.255"},
		6: {"::", "::1", "fe80::1", "febf:ffff::1", "ff00::", "ff02::1", "ff0e::101", "ffff::1"},
	}
	ordinary = map[uint8][]string{
		4: {"1.0.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "192.168.0.1", "223.255.255.255",
			"0.0.0.1", "0.1.0.7", "0.255.255.255", "240.0.0.0", "240.1.0.7", "255.0.0.1", "255.255.255.254"},
		6: {"::2", "::1:0:0:1", "0:0:1::1", "64:ff9b::1", "2001:db8::1", "fd00::1", "fe7f:ffff::1", "fec0::1", "feff::1"},
	}
)

func TestAdmitSource(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		ignored := unread(bpf.DatapathEventEVENT_IGNORED_SOURCE)
		for _, address := range extraordinary[n.family] {
			b.run(ingress(b.replication, n.in(b.replication, m, source(netip.MustParseAddr(address)))), ignored)
		}
		for _, own := range []netip.Addr{n.self, n.other} {
			b.run(ingress(b.replication, n.in(b.replication, m, source(own))), ignored)
		}
		for _, address := range ordinary[n.family] {
			peer := n
			peer.peer = netip.MustParseAddr(address)
			b.run(ingress(b.replication, peer.in(b.replication, m)), b.starts(peer, m, b.replication))
			b.must(b.SetTables(newTables()))
		}
	})
}

// TestAdmitDestination: a link-local address is the host's own, and yet its
// packets find their way by themselves.
func TestAdmitDestination(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		for _, address := range extraordinary[n.family] {
			to := netip.MustParseAddr(address)
			frame := n.in(b.replication, m, destination(to))
			b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_NOT_OWN))
			b.must(b.SetOwnAddress(to, bpf.DatapathOwnFlagsOWN_ADDRESS))
			b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
			b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_SOURCE))
		}
	})
}

func TestAdmitMAC(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		for _, text := range []string{"00:00:00:00:00:00", "01:00:00:00:00:00", "03:00:00:00:01:01", "ff:ff:ff:ff:ff:ff"} {
			mac, err := net.ParseMAC(text)
			b.must(err)
			b.run(ingress(b.replication, n.in(b.replication, m, sourceMAC(mac))), unread(bpf.DatapathEventEVENT_IGNORED_MAC))
		}
		for _, text := range []string{"00:00:00:00:00:01", "00:00:01:00:00:00", "fe:ff:ff:ff:ff:ff"} {
			mac, err := net.ParseMAC(text)
			b.must(err)
			want := b.starts(n, m, nic{b.replication.Device, b.replication.interfaceIndex, mac})
			b.run(ingress(b.replication, n.in(b.replication, m, sourceMAC(mac))), want)
			b.must(b.SetTables(newTables()))
		}
	})
}

// exclusion builds a rule; the zero value of each part matches everything.
func exclusion(peer, self netip.Prefix, protocol uint8, selfPort uint16) bpf.DatapathExclusion {
	rule := bpf.DatapathExclusion{Protocol: protocol}
	if selfPort != 0 {
		rule.SelfPort = rig.Port(selfPort)
	}
	rule.Peer, rule.PeerMask = masked(peer)
	rule.Self, rule.SelfMask = masked(self)
	return rule
}

func masked(prefix netip.Prefix) (want, mask [2]uint64) {
	if !prefix.IsValid() {
		return want, mask
	}
	bits := prefix.Bits()
	if prefix.Addr().Is4() {
		bits += 96
	}
	address := prefix.Addr().As16()
	var ones [16]byte
	for i := range bits {
		ones[i/8] |= 0x80 >> (i % 8)
	}
	for i := range ones {
		address[i] &= ones[i]
	}
	for i := range want {
		want[i] = binary.NativeEndian.Uint64(address[i*8:])
		mask[i] = binary.NativeEndian.Uint64(ones[i*8:])
	}
	return want, mask
}

func TestExclusions(t *testing.T) {
	eachFamily(t, func(t *testing.T, _ *bed, n network) {
		any := netip.Prefix{}
		around := func(address netip.Addr, bits int) netip.Prefix { return netip.PrefixFrom(address, bits).Masked() }
		for _, test := range []struct {
			name     string
			rule     bpf.DatapathExclusion
			excluded []bool // by starter
		}{
			{"everything", exclusion(any, any, 0, 0), []bool{true, true, true, true}},
			{"peer", exclusion(prefix(n.peer), any, 0, 0), []bool{true, true, true, true}},
			{"peer's network", exclusion(around(n.peer, 16), any, 0, 0), []bool{true, true, true, true}},
			{"another peer", exclusion(prefix(n.peer.Next()), any, 0, 0), []bool{false, false, false, false}},
			{"another network", exclusion(around(n.stranger, 16), any, 0, 0), []bool{false, false, false, false}},
			{"own address", exclusion(any, prefix(n.self), 0, 0), []bool{true, true, true, true}},
			{"another own address", exclusion(any, prefix(n.other), 0, 0), []bool{false, false, false, false}},
			{"own address as a peer", exclusion(prefix(n.self), any, 0, 0), []bool{false, false, false, false}},
			{"protocol", exclusion(any, any, 17, 0), []bool{false, true, false, false}},
			{"port", exclusion(any, any, 0, selfPort), []bool{true, true, true, false}},
			{"peer's port", exclusion(any, any, 0, peerPort), []bool{false, false, false, false}},
			{"protocol and port", exclusion(any, any, 6, selfPort), []bool{true, false, false, false}},
			{"all four", exclusion(prefix(n.peer), prefix(n.self), 132, selfPort), []bool{false, false, true, false}},
			{"all but the peer", exclusion(prefix(n.stranger), prefix(n.self), 132, selfPort), []bool{false, false, false, false}},
		} {
			t.Run(test.name, func(t *testing.T) {
				for i, m := range starters {
					b := newBed(t, normal)
					b.must(b.SetExclusions(test.rule))
					want := b.starts(n, m.message, b.replication)
					if test.excluded[i] {
						want = unread(bpf.DatapathEventEVENT_IGNORED_EXCLUDED)
					}
					b.run(ingress(b.replication, n.in(b.replication, m.message)), want)
				}
			})
		}
	})
}

// TestExclusionsAllRules: the last of 64 rules counts, one beyond those in use does not.
func TestExclusionsAllRules(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		const last = 63
		rules := slices.Repeat([]bpf.DatapathExclusion{exclusion(prefix(n.stranger), netip.Prefix{}, 0, 0)}, last)
		rules = append(rules, exclusion(prefix(n.peer), netip.Prefix{}, 0, 0))
		b.must(b.SetExclusions(rules...))
		frame := n.in(b.replication, udp{})
		b.run(ingress(b.replication, frame), unread(bpf.DatapathEventEVENT_IGNORED_EXCLUDED))
		b.must(b.SetExclusions(rules[:last]...))
		b.run(ingress(b.replication, frame), b.starts(n, udp{}, b.replication))
	})
}

// TestExclusionsOtherFamily: 0.0.0.0/0 means every IPv4 peer and no other.
func TestExclusionsOtherFamily(t *testing.T) {
	b := newBed(t, normal)
	b.must(b.SetExclusions(exclusion(netip.MustParsePrefix("0.0.0.0/0"), netip.Prefix{}, 0, 0)))
	v4, v6 := networks[0], networks[1]
	b.run(ingress(b.replication, v4.in(b.replication, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_EXCLUDED))
	b.run(ingress(b.replication, v6.in(b.replication, udp{})), b.starts(v6, udp{}, b.replication))
}

// unmanage takes away an interface's record as the loader does when it goes.
func (b *bed) unmanage(i nic) {
	b.t.Helper()
	b.must(b.Managed.Put(i.Index, uint32(0)))
	b.must(b.Interfaces.Put(uint32(i.interfaceIndex), bpf.DatapathInterface{}))
}

func TestAdmitUnmanagedInterface(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.unmanage(b.replication)
		b.run(ingress(b.replication, n.in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_INTERFACE))
	})
}

// TestAdmitStaleInterface: two interfaces may share the low bits of their index,
// and an index may come back with another interface.
func TestAdmitStaleInterface(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Ifindex += 1 << 16 })
		b.run(ingress(b.replication, n.in(b.replication, m)), unread(bpf.DatapathEventEVENT_IGNORED_INTERFACE))
	})
}

// TestAdmitWithoutSettings: nothing is recorded before the loader has said what.
func TestAdmitWithoutSettings(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetSettings(bpf.DatapathSettings{}))
		b.run(ingress(b.replication, n.in(b.replication, m)), unlisted)
	})
}
