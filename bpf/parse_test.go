// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// admits is the effect of a packet that starts a connectionless flow.
func (b *bed) admits(n network, m message, via nic) effect {
	return effect{events: once(eventAdmittedConnectionless), tables: connectionlessFlow(b.born(n, m, via))}
}

// admitsServed is admits of a datagram that a UDP socket takes.
func (b *bed) admitsServed(n network, via nic) effect {
	f := b.born(n, udp{}, via)
	f.Flags &^= flagNoSocket
	return effect{events: once(eventAdmittedConnectionless), tables: connectionlessFlow(f)}
}

// unread is the effect of a packet that cannot be read.
func unread(event bpf.DatapathEvent) effect {
	return effect{events: once(event)}
}

var (
	truncated = unread(bpf.DatapathEventEVENT_UNPARSED_TRUNCATED)
	malformed = unread(bpf.DatapathEventEVENT_UNPARSED_MALFORMED)
	nothing   = effect{}
)

func TestParseOtherFrames(t *testing.T) {
	b := newBed(t, normal)
	for name, kind := range map[string]layers.EthernetType{
		"arp": layers.EthernetTypeARP, "lldp": layers.EthernetTypeLinkLayerDiscovery, "mpls": layers.EthernetTypeMPLSUnicast,
		"unknown": 0x88b5, "length instead of type": 46, "tag in the frame": layers.EthernetTypeDot1Q,
	} {
		b.sub(name, func(t *testing.T) {
			b.arrives(networks[0], udp{}, nothing, etherType(kind))
			b.leaves(networks[0], udp{}, nothing, etherType(kind))
		})
	}
}

// TestParseVLAN: a frame with a tag belongs to the VLAN device; tag 0 is none.
func TestParseVLAN(t *testing.T) {
	eachFamily(t, func(t *testing.T, _ *bed, n network) {
		for tci, ours := range map[uint16]bool{
			0x0001: false, 0x0800: false, 0x0fff: false, 0xe064: false, 0x0000: true, 0xe000: true, 0x1000: true,
		} {
			t.Run(fmt.Sprintf("%#04x", tci), func(t *testing.T) {
				b := newBed(t, normal)
				in, out := ingress(b.replication, n.in(b.replication, udp{})), egress(b.production, n.out(b.production, udp{}))
				in.probe.VLAN, out.probe.VLAN = &tci, &tci
				want := either(ours, b.admits(n, udp{}, b.replication), nothing)
				want.probed = &rig.Probed{VLANPresent: true, VLANTCI: tci}
				b.run(in, want)

				b.put(connectionlessFlow(b.flow(n, udp{}, b.replication, 0)))
				want = either(ours, b.moves(n, udp{}, b.production, b.replication, out.frame), nothing)
				want.probed = &rig.Probed{VLANPresent: true, VLANTCI: tci, PktType: unix.PACKET_OTHERHOST}
				want.probed.TCIndex = either[uint16](ours, 1, 0) // the first mark
				b.run(out, want)
			})
		}
	})
}

// TestParseMalformed: what says something impossible of itself, and what says that it is longer than its frame.
func TestParseMalformed(t *testing.T) {
	for _, test := range []struct {
		name   string
		first  byte      // of the packet; 0: as it is
		length [2]uint16 // what the field says, by family; where the first byte is as it is
		want   effect
	}{
		{"another version", 0x55, [2]uint16{}, malformed},
		{"four words of header, or version 4", 0x44, [2]uint16{}, malformed},
		{"a header longer than the packet, or version 4", 0x4f, [2]uint16{}, malformed},
		{"less than a header", 0, [2]uint16{19, 0}, malformed},
		{"nothing behind the header", 0, [2]uint16{20, 0}, malformed},
		{"part of a UDP header", 0, [2]uint16{27, 7}, malformed},
		{"beyond the frame", 0, [2]uint16{29, 9}, truncated},
		{"far beyond the frame", 0, [2]uint16{0xffff, 0xffff}, truncated},
	} {
		for i, n := range networks {
			t.Run(test.name+", "+n.name, func(t *testing.T) {
				b := newBed(t, normal)
				for _, r := range []run{ingress(b.replication, n.in(b.replication, udp{})), egress(b.production, n.out(b.production, udp{}))} {
					if ip := r.frame[ethernetSize:]; test.first != 0 {
						ip[0] = test.first
					} else {
						binary.BigEndian.PutUint16(ip[[2]int{2, 4}[i]:], test.length[i])
					}
					b.run(r, test.want)
				}
			})
		}
	}
}

// TestParseTruncated cuts packets at every byte of their headers.
func TestParseTruncated(t *testing.T) {
	for _, m := range starters {
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) {
			in, out := n.in(b.replication, m), n.out(b.production, m)
			for size := ethernetSize; size < len(in); size++ {
				b.run(cut(ingress(b.replication, in), size), cutOff(truncated, in, size))
				b.run(cut(egress(b.production, out), size), cutOff(truncated, out, size))
			}
		})
	}
}

// cut has the wrapper cut the frame, cutOff says what is left of it afterwards.
func cut(r run, size int) run {
	r.probe.Length = uint32(size)
	return r
}

func cutOff(e effect, frame []byte, size int) effect {
	e.frame = frame[:size]
	return e
}

type extension = rig.Extension

var (
	first = extension{Kind: layers.IPProtocolIPv6Fragment, Body: []byte{0, 0, 0, 1, 1, 2, 3, 4}}
	later = extension{Kind: layers.IPProtocolIPv6Fragment, Body: []byte{0, 0, 0, 9, 1, 2, 3, 4}}
	last  = extension{Kind: layers.IPProtocolIPv6Fragment, Body: []byte{0, 0, 0xff, 0xf8, 1, 2, 3, 4}}
)

// TestParseNonLinear: drivers may leave headers in fragments of the packet.
func TestParseNonLinear(t *testing.T) {
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		r := ingress(b.replication, n.in(b.replication, m))
		for r.linear = ethernetSize; int(r.linear) < len(r.frame); r.linear++ {
			b.run(r, b.starts(n, m, b.replication))
			b.put()
		}
	})
}
