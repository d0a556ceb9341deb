// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

// extension is an IPv6 extension header; its first byte is filled in.
type extension struct {
	kind layers.IPProtocol
	body []byte
}

var (
	hopByHop     = extension{layers.IPProtocolIPv6HopByHop, []byte{0, 0, 1, 4, 0, 0, 0, 0}}
	destinations = extension{layers.IPProtocolIPv6Destination, []byte{0, 0, 1, 4, 0, 0, 0, 0}}
	longOptions  = extension{layers.IPProtocolIPv6Destination, append([]byte{0, 2, 1, 20}, make([]byte, 20)...)}
	routed       = extension{layers.IPProtocolIPv6Routing, append([]byte{0, 2, 4, 0}, make([]byte, 20)...)}
	routing      = extension{layers.IPProtocolIPv6Routing, append([]byte{0, 2, 4, 1}, make([]byte, 20)...)}
	first        = extension{layers.IPProtocolIPv6Fragment, []byte{0, 0, 0, 1, 1, 2, 3, 4}}
	later        = extension{layers.IPProtocolIPv6Fragment, []byte{0, 0, 0, 9, 1, 2, 3, 4}}
	middle       = extension{layers.IPProtocolIPv6Fragment, []byte{0, 0, 0x80, 1, 1, 2, 3, 4}}
	last         = extension{layers.IPProtocolIPv6Fragment, []byte{0, 0, 0xff, 0xf8, 1, 2, 3, 4}}
	atomic       = extension{layers.IPProtocolIPv6Fragment, []byte{0, 0, 0, 0, 1, 2, 3, 4}}
)

// extend puts extension headers between the IPv6 header and what follows it.
func extend(frame []byte, extensions ...extension) []byte {
	const nextHeader = ethernetSize + 6
	next := frame[nextHeader]
	var inserted []byte
	for i, e := range extensions {
		body := slices.Clone(e.body)
		body[0] = next
		if i+1 < len(extensions) {
			body[0] = byte(extensions[i+1].kind)
		}
		inserted = append(inserted, body...)
	}
	extended := slices.Insert(slices.Clone(frame), ethernetSize+ipv6Size, inserted...)
	if len(extensions) > 0 {
		extended[nextHeader] = byte(extensions[0].kind)
	}
	return networks[1].setLength(extended, uint16(len(extended)-ethernetSize-ipv6Size))
}

func TestParseExtensionHeaders(t *testing.T) {
	n := networks[1]
	repeat := func(count int) []extension { return slices.Repeat([]extension{destinations}, count) }
	for _, test := range []struct {
		name       string
		extensions []extension
		event      bpf.DatapathEvent // 0 stands for none
		readable   bool
	}{
		{"hop by hop", []extension{hopByHop}, 0, true},
		{"destination options", []extension{destinations}, 0, true},
		{"long destination options", []extension{longOptions}, 0, true},
		{"routing header that is used up", []extension{routed}, 0, true},
		{"routing header with segments left", []extension{routing}, bpf.DatapathEventEVENT_UNPARSED_SOURCE_ROUTE, false},
		{"first fragment", []extension{first}, 0, true},
		{"later fragment", []extension{later}, bpf.DatapathEventEVENT_UNPARSED_FRAGMENT, false},
		{"fragment in the middle", []extension{middle}, bpf.DatapathEventEVENT_UNPARSED_FRAGMENT, false},
		{"last fragment", []extension{last}, bpf.DatapathEventEVENT_UNPARSED_FRAGMENT, false},
		{"atomic fragment", []extension{atomic}, 0, true},
		{"four kinds", []extension{hopByHop, destinations, routed, first}, 0, true},
		{"segments left behind others", []extension{hopByHop, destinations, routing}, bpf.DatapathEventEVENT_UNPARSED_SOURCE_ROUTE, false},
		{"eight", repeat(8), 0, true},
		{"far from the start", slices.Repeat([]extension{longOptions}, 8), 0, true},
		{"nine", repeat(9), bpf.DatapathEventEVENT_UNPARSED_EXTENSION_HEADERS, false},
		{"forty", repeat(40), bpf.DatapathEventEVENT_UNPARSED_EXTENSION_HEADERS, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t, normal)
			m := udp{payload: 8}
			want := b.admits(n, m, b.replication)
			if !test.readable {
				want = unread(test.event)
			}
			b.run(ingress(b.replication, extend(n.in(b.replication, m), test.extensions...)), want)

			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)))
			frame := extend(n.out(b.production, m), test.extensions...)
			if test.readable {
				want = b.moves(n, m, b.production, b.replication, frame)
			}
			b.run(egress(b.production, frame), want)
		})
	}
}

func TestParseExtensionHeadersTruncated(t *testing.T) {
	n, b := networks[1], newBed(t, normal)
	frame := extend(n.in(b.replication, udp{}), hopByHop, longOptions, first)
	for size := ethernetSize + ipv6Size; size < len(frame)-8; size++ {
		b.unreadable(ingress(b.replication, n.shorten(frame, size)))
	}
	// Where padding makes the bytes readable, only the payload length tells.
	for size := ethernetSize + ipv6Size; size < len(frame); size++ {
		short := n.setLength(slices.Clone(frame), uint16(size-ethernetSize-ipv6Size))
		b.run(ingress(b.replication, short), malformed)
	}
	long := slices.Clone(frame)
	long[ethernetSize+ipv6Size+1] = 255 // the hop-by-hop header's own length
	b.run(ingress(b.replication, long), truncated)
}

// TestParseOtherProtocols: what is no extension header to us is a protocol, and
// none of these is listed.
func TestParseOtherProtocols(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, protocol := range []layers.IPProtocol{
			layers.IPProtocolAH, layers.IPProtocolESP, layers.IPProtocolGRE, layers.IPProtocolVRRP,
			layers.IPProtocolIPIP, layers.IPProtocolIPv6, layers.IPProtocolIGMP, layers.IPProtocolNoNextHeader, 253,
		} {
			m := raw{protocol, make([]byte, 24)}
			b.run(ingress(b.replication, n.in(b.replication, m)), unlisted)
			b.must(b.SetTables(newTables()))
			b.run(egress(b.production, n.out(b.production, m)), nothing)
		}
	})
	// IPv6's extension headers are nothing special in IPv4.
	b, n := newBed(t, normal), networks[0]
	for _, protocol := range []layers.IPProtocol{0, layers.IPProtocolIPv6Routing, layers.IPProtocolIPv6Fragment, layers.IPProtocolIPv6Destination} {
		m := raw{protocol, make([]byte, 24)}
		b.run(ingress(b.replication, n.in(b.replication, m)), unlisted)
	}
}
