// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

const (
	portFragments = 6300
	// notFirst is what a fragment counts as of whose packet nobody knows the ports.
	notFirst = bpf.DatapathEventEVENT_UNPARSED_FRAGMENT

	fragmentOffset = 8 // of later ones, in units of eight bytes
)

// Identifications of packets: each case has its own.
const (
	idFirst = 1 + iota
	idLater
	idUnknown
)

// fragmentCases are those of a datagram in pieces, of which only the first one has ports.
func (b *bench) fragmentCases(e endpoints) {
	limited := func(l limit) limit {
		if e.family == "ipv6" {
			return extended
		}
		return l.boundOnly()
	}
	at := b.enterFlow(e, udp, portFragments, replication)
	out, in := b.out(e, udp, portFragments, production), b.in(e, udp, portFragments, replication)
	first := b.moved(e, "egress redirect: udp, first fragment", limited(fragmented), production, fragment(e, out, idFirst, 0))
	isMoved := first.prove
	first.prove = func(c *testCase) error {
		return errors.Join(isMoved(c), c.other(fragment(e, out, idFirst, fragmentOffset)).checkVerdict(1))
	}
	later := b.moved(e, "egress redirect: udp, later fragment", limited(fragmented), production,
		fragment(e, out, idLater, fragmentOffset))
	later.prepare = func() error {
		return errors.Join(later.other(fragment(e, out, idLater, 0)).checkVerdict(1), b.keepFragments())
	}
	b.egressAnew(e, "egress pass: udp, later fragment of an unknown packet", limited(redirect), production,
		fragment(e, out, idUnknown, fragmentOffset)).prove = counts(notFirst, 1000)
	b.ingress(e, "ingress refresh: udp, first fragment", limited(refresh), replication, fragment(e, in, idFirst, 0)).
		prove = at.notes(isActive)
	b.ingress(e, "ingress pass: udp, later fragment", limited(pass), replication, fragment(e, in, idLater, fragmentOffset)).
		prove = counts(notFirst, 1000)
}

// other is the same case of another frame.
func (c *testCase) other(frame []byte) *testCase {
	other := *c
	other.frame = frame
	return &other
}

// keepFragments has what is known of fragments last while this is measured.
func (b *bench) keepFragments() error {
	noted := b.datapath.DatapathMaps.Fragments
	for index := range noted.MaxEntries() {
		var set bpf.DatapathFragmentSet
		if err := noted.Lookup(index, &set); err != nil {
			return fmt.Errorf("read fragments %d: %w", index, err)
		}
		for way := range set.Fragment {
			set.Fragment[way].Seen = b.now + lasting
		}
		if err := noted.Put(index, set); err != nil {
			return fmt.Errorf("write fragments %d: %w", index, err)
		}
	}
	return nil
}

// fragment makes a frame a piece of the packet with this identification, the first one where the offset
// is 0. What a later one carries does not matter.
func fragment(e endpoints, frame []byte, identification, offset uint16) []byte {
	if e.family == "ipv6" {
		return fragmentV6(frame, identification, offset)
	}
	const moreFragments, idAt, offsetAt = 0x2000, ethernetSize + 4, ethernetSize + 6
	frame = slices.Clone(frame)
	binary.BigEndian.PutUint16(frame[idAt:], identification)
	if offset == 0 {
		offset = moreFragments
	}
	binary.BigEndian.PutUint16(frame[offsetAt:], offset)
	return frame
}

// fragmentV6 puts an extension header between the IPv6 header and what follows it.
func fragmentV6(frame []byte, identification, offset uint16) []byte {
	const lengthAt, nextHeaderAt, headerSize, ipSize = ethernetSize + 4, ethernetSize + 6, 8, 40
	const moreFragments = 1
	offset <<= 3
	if offset == 0 {
		offset = moreFragments
	}
	header := []byte{frame[nextHeaderAt], 0}
	header = binary.BigEndian.AppendUint16(header, offset)
	header = binary.BigEndian.AppendUint32(header, uint32(identification))
	frame = slices.Insert(slices.Clone(frame), ethernetSize+ipSize, header...)
	frame[nextHeaderAt] = byte(layers.IPProtocolIPv6Fragment)
	binary.BigEndian.PutUint16(frame[lengthAt:], binary.BigEndian.Uint16(frame[lengthAt:])+headerSize)
	return frame
}
